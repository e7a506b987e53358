"""The life cycle of a job, with a job that needs neither a model nor Ray."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest
from rich.console import Console

from stratoscope.errors import DamagedFileError
from stratoscope.phases import announcing
from stratoscope.pipelines.runtime.config import JobConfig
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.launch import run_from_command_line
from stratoscope.results import Run, read_table, write_table


class CountConfig(JobConfig):
    """Count to a number."""

    number: int = 3
    """Where to stop."""


class CountJob(Job[CountConfig]):
    """Writes a table of numbers."""

    name: ClassVar[str] = "count"
    config_class = CountConfig
    reads_models: ClassVar[bool] = False
    executed: ClassVar[int] = 0

    def prepare(self) -> None:
        """Need nothing."""

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return the work."""
        return [("work", f"count to {self.config.number}")]

    def execute(self) -> None:
        """Count."""
        CountJob.executed += 1
        with self.context.stage("count", "counting"):
            table = pa.table({"number": list(range(self.config.number))})
            write_table(self.context.storage, "numbers", table)

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the numbers."""
        console.print(f"{run.table('numbers').num_rows} numbers")


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    CountJob.executed = 0
    return ["--output", str(tmp_path), "--run_id", "one"]


def test_a_finished_run_with_a_damaged_table_is_computed_again(arguments: list[str], tmp_path: Path) -> None:
    assert run_from_command_line(CountJob, arguments) == 0
    assert run_from_command_line(CountJob, arguments) == 0
    assert CountJob.executed == 1
    table = tmp_path / "count" / "one" / "numbers.parquet"
    table.write_bytes(table.read_bytes()[:-20])
    job = CountJob(CountConfig(output=str(tmp_path), run_id="one"))
    lines: list[str] = []
    with announcing("count", lines.append):
        job.perform()
    assert f"count: {table} cannot be read; the run is computed again" in lines
    assert CountJob.executed == 2
    assert read_table(job.context.storage, "numbers").num_rows == 3
    assert job.context.manifest.status == "done"


def test_a_damaged_manifest_refuses_the_run_id_in_one_line(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_from_command_line(CountJob, arguments) == 0
    manifest = tmp_path / "count" / "one" / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    capfd.readouterr()
    assert run_from_command_line(CountJob, arguments) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"count: {manifest} cannot be read")
    assert error.count("\n") == 1
    assert CountJob.executed == 1


def test_a_damaged_table_is_one_line_when_it_is_shown(arguments: list[str], tmp_path: Path) -> None:
    assert run_from_command_line(CountJob, arguments) == 0
    job = CountJob(CountConfig(output=str(tmp_path), run_id="one"))
    assert job.already_done()
    (tmp_path / "count" / "one" / "numbers.parquet").write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"numbers\.parquet cannot be read"):
        CountJob.show(job.context.run, Console(file=io.StringIO()))


def test_phases_are_lines_on_stdout_and_the_path_is_the_last(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_from_command_line(CountJob, arguments) == 0
    output = capfd.readouterr()
    assert output.out.splitlines()[-3:] == ["count: counting", "3 numbers", f"run: {tmp_path}/count/one"]
    assert output.err == ""


def test_an_equal_request_is_not_reused_for_jobs_of_other_packages(tmp_path: Path) -> None:
    assert not CountJob.has_request()
    for run_id in ("one", "two"):
        job = CountJob(CountConfig(output=str(tmp_path), run_id=run_id, reuse=True))
        job.perform()
        assert (job.context.manifest.run_id, job.context.manifest.request) == (run_id, None)
