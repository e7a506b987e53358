"""The life cycle of a job, with a job that needs neither a model nor Ray."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest
from rich.console import Console

from stratoscope.digest import code_digest
from stratoscope.errors import DamagedFileError
from stratoscope.phases import announcing
from stratoscope.pipelines.runtime import run_lookup
from stratoscope.pipelines.runtime.config import JobConfig
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.launch import run_from_command_line
from stratoscope.results import LeaseLostError, Manifest, Run, read_table, write_table
from stratoscope.results.lease import NAME as LEASE


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


class PartsJob(CountJob):
    """Registers itself, then writes parts that a resumed run keeps, and a table of them."""

    name: ClassVar[str] = "parts"
    fails_at: ClassVar[str] = ""
    """The step that raises an error."""
    status_when_cleared: ClassVar[list[str]] = []

    @classmethod
    def has_request(cls) -> bool:
        """Return True, as jobs of this package do."""
        return True

    def execute(self) -> None:
        """Write the parts that are missing."""
        self._fail("start")
        self.context.manifest.fingerprints = {"data": "same"}
        self.register()
        for name in ("first", "second"):
            if not self.context.storage.exists(f"parts/{name}"):
                self.context.storage.write(f"parts/{name}", b"")
            self._fail(name)
        super().execute()

    def _fail(self, step: str) -> None:
        if step == self.fails_at:
            raise RuntimeError(step)

    def clear_intermediates(self) -> None:
        """Remove the parts."""
        self.status_when_cleared.append(self.context.folder.read_manifest().status)
        self.context.storage.remove("parts")


def perform_parts(output: Path, run_id: str, fails_at: str = "", **fields: object) -> PartsJob:
    """Run the job up to an error at a step."""
    PartsJob.fails_at = fails_at
    PartsJob.status_when_cleared = []
    job = PartsJob(CountConfig(output=str(output), run_id=run_id, **fields))
    if fails_at:
        with pytest.raises(RuntimeError, match=fails_at):
            job.perform()
    else:
        job.perform()
    return job


def test_a_run_with_results_of_other_code_is_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    perform_parts(tmp_path, "mixed", fails_at="first")
    monkeypatch.setattr(run_lookup, "code_digest", lambda: "other")
    perform_parts(tmp_path, "mixed", fails_at="second")
    mixed = perform_parts(tmp_path, "mixed").context.manifest
    assert (mixed.status, mixed.identity, mixed.request) == ("done", None, None)
    assert mixed.earlier_code == [code_digest()]
    alone = perform_parts(tmp_path, "alone", reuse=True).context.manifest
    assert (alone.run_id, alone.earlier_code) == ("alone", [])
    again = perform_parts(tmp_path, "again", reuse=True).context.manifest
    assert again.run_id == "alone"


def test_a_run_that_the_same_code_resumes_is_reused(tmp_path: Path) -> None:
    perform_parts(tmp_path, "resumed", fails_at="first")
    # This start fails before it knows the data; the record of the earlier start's data and code is kept.
    failed = perform_parts(tmp_path, "resumed", fails_at="start").context.folder.read_manifest()
    assert failed.fingerprints == {"data": "same"}
    assert failed.identity is not None
    resumed = perform_parts(tmp_path, "resumed").context.manifest
    assert (resumed.identity, resumed.earlier_code) == (failed.identity, [])
    assert perform_parts(tmp_path, "again", reuse=True).context.manifest.run_id == "resumed"


def test_intermediate_files_are_removed_once_the_manifest_says_done(tmp_path: Path) -> None:
    job = perform_parts(tmp_path, "one", fails_at="second")
    assert job.context.storage.names("parts") == ["first", "second"]
    job = perform_parts(tmp_path, "one")
    assert PartsJob.status_when_cleared == ["done"]
    assert not job.context.storage.exists("parts")
    # What a kill between the two steps leaves is removed at the next start.
    job.context.storage.write("parts/first", b"")
    assert not perform_parts(tmp_path, "one").context.storage.exists("parts")


class OvertakenJob(CountJob):
    """Loses its lease to another process, which finishes the run and releases the lease."""

    name: ClassVar[str] = "overtaken"
    notices: ClassVar[bool] = True

    def execute(self) -> None:
        """Go on after the other process has finished."""
        context = self.context
        other = Manifest(self.name, context.folder.run_id, context.manifest.config, 0, status="done", exit_code=0)
        context.folder.write_manifest(other)
        context.storage.remove(LEASE)
        if self.notices:
            context.lease.check_held()


@pytest.mark.parametrize("notices", [True, False], ids=["while it works", "at its end"])
def test_a_process_without_its_lease_leaves_the_manifest_of_the_run_alone(notices: bool, tmp_path: Path) -> None:
    OvertakenJob.notices = notices
    job = OvertakenJob(CountConfig(output=str(tmp_path), run_id="one"))
    with pytest.raises(LeaseLostError, match="another process has taken over"):
        job.perform()
    manifest = job.context.folder.read_manifest()
    assert (manifest.status, manifest.exit_code, manifest.error) == ("done", 0, None)
