"""Runs that another version of the package made are shown, reported, compared and resumed, or refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stratoscope
from stratoscope.cli import main
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.score import ScoreConfig
from stratoscope.pipelines.score.worker import ScoreWorker
from stratoscope.results import ShardStore, Storage
from tests.jobs.small import Fields, command_line, same_tables, settings_of, shards_of

pytestmark = pytest.mark.usefixtures("local_ray")
ADDED_SINCE = ("max_tokens", "chat", "bos")
"""Fields of the section prompts that the older version did not have."""


def make_older(folder: Path, change: Callable[[dict[str, Any]], object], **fields: object) -> None:
    """Rewrite the manifest of a run as an older version would have written it."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest["config"])
    manifest["versions"]["stratoscope"] = "0.0.9"
    file.write_text(json.dumps(manifest | {"code": "older"} | fields))


def remove_new_fields(config: dict[str, Any]) -> None:
    for name in ADDED_SINCE:
        del config["prompts"][name]
    del config["reuse"]


def add_old_field(config: dict[str, Any]) -> None:
    config["prompts"]["shuffle"] = True


@pytest.fixture(scope="module")
def older(undisturbed: stratoscope.ScoreRun) -> dict[str, Path]:
    """Copies of a finished run: one whose manifest lacks fields, and one with a field that is unknown now."""
    folder = Path(undisturbed.path).parent
    copies = {name: folder / name for name in ("lacking", "unknown")}
    for name, change in zip(copies, (remove_new_fields, add_old_field), strict=True):
        shutil.copytree(undisturbed.path, copies[name])
        make_older(copies[name], change, run_id=name)
    return copies


@pytest.mark.parametrize("name", ["lacking", "unknown"])
def test_an_older_run_is_reported_listed_and_compared(
    name: str,
    older: dict[str, Path],
    small_run: Fields,
    undisturbed: stratoscope.ScoreRun,
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = ["--output", small_run()["output"]]
    assert main(["report", str(older[name])]) == 0
    assert "report.html" in capfd.readouterr().out
    assert main(["compare", name, "undisturbed", *output]) == 0
    changed = capfd.readouterr().out.splitlines()[0]
    versions = f"stratoscope 0.0.9 -> {undisturbed.manifest.versions['stratoscope']}; other code of stratoscope"
    settings = "prompts.shuffle True -> None; " if name == "unknown" else ""
    assert changed == f"changed: {settings}{versions}"
    assert main(["runs", *output]) == 0
    assert ["score", name, "done"] in [line.split()[:3] for line in capfd.readouterr().out.splitlines()]
    assert main(["history", "--sql", f"SELECT count(*) FROM score_layers WHERE run_id = '{name}'", *output]) == 0


def test_a_finished_run_that_lacks_new_fields_is_shown_again(
    older: dict[str, Path], small_run: Fields, capfd: pytest.CaptureFixture[str]
) -> None:
    written = (older["lacking"] / "report.html").stat().st_mtime_ns
    assert main(["score", *command_line(small_run(run_id="lacking"))]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"run: {older['lacking']}"
    assert (older["lacking"] / "report.html").stat().st_mtime_ns == written
    prompts = small_run()["prompts"] | {"bos": "never"}
    assert main(["score", *command_line(small_run(run_id="lacking", prompts=prompts))]) == 2
    assert "made by stratoscope 0.0.9, with other settings (prompts.bos auto -> never)" in capfd.readouterr().err


@pytest.mark.parametrize("status", ["done", "running"])
def test_a_run_with_a_field_that_is_unknown_now_is_refused_in_one_line(
    status: str, older: dict[str, Path], small_run: Fields, capfd: pytest.CaptureFixture[str]
) -> None:
    make_older(older["unknown"], add_old_field, status=status)
    assert main(["score", *command_line(small_run(run_id="unknown"))]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    for part in ("prompts.shuffle", "made by stratoscope 0.0.9", "choose another run_id"):
        assert part in error


def test_an_unfinished_run_that_lacks_new_fields_resumes_to_the_bit(
    small_run: Fields, undisturbed: stratoscope.ScoreRun
) -> None:
    fields = small_run(run_id="unfinished")
    folder = Path(undisturbed.path).parent / "unfinished"
    folder.mkdir()
    shutil.copy(Path(undisturbed.path) / "manifest.json", folder)
    make_older(folder, remove_new_fields, run_id="unfinished", status="running", exit_code=None)
    job, settings = settings_of(validate(ScoreConfig, fields))
    worker = ScoreWorker(settings)
    for shard in shards_of(job, *range(25)):
        ShardStore(Storage(str(folder))).write(worker(shard))
    resumed = stratoscope.score(**fields)
    assert (resumed.manifest.counts["shards_skipped"], resumed.manifest.counts["shards_computed"]) == (25, 15)
    same_tables(resumed, undisturbed)
