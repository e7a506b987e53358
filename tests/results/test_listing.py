import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stratoscope.cli import main
from stratoscope.results import Lease, LeaseHolder, Manifest, RunFolder


@pytest.fixture
def output(tmp_path: Path) -> str:
    """A finished run, a failed one, an abandoned one, a running one, and files that are no run."""
    states = {"a-done": "done", "b-failed": "failed", "c-left": "running", "d-live": "running"}
    for run_id, status in states.items():
        manifest = Manifest("score", run_id, {}, 0, status=status, facts={"num_prompts": 40})  # type: ignore[arg-type]
        if status == "done":
            manifest.counts = {"prompts": 40, "errors": 2}
        if status == "failed":
            manifest.progress = {"done": 3, "total": 9, "errors": 0, "unit": "cells"}
        RunFolder(str(tmp_path), "score", run_id).write_manifest(manifest)
    (tmp_path / "score" / "e-nothing").mkdir()
    (tmp_path / "notes.txt").write_text("no job")
    return str(tmp_path)


def test_runs_are_listed_with_the_progress_of_the_live_one(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    live = RunFolder(output, "score", "d-live").storage
    with Lease(live):
        progress = {"done": 12, "total": 40, "errors": 1, "rate": 3.25, "unit": "prompts"}
        live.write("lease.json", json.dumps(asdict(replace(LeaseHolder.this_process(), progress=progress))).encode())
        assert main(["runs", "--output", output]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(line[1], line[2]) for line in lines] == [
        ("a-done", "done"),
        ("b-failed", "failed"),
        ("c-left", "abandoned"),
        ("d-live", "running"),
    ]
    assert lines[0][4:] == ["40/40", "prompts", "2"], "older manifests record no progress"
    assert lines[1][4:] == ["3/9", "cells", "0"]
    assert lines[3][4:9] == ["12/40", "prompts", "1", "3.2", "prompts/s"]


def test_an_output_without_runs_says_so_and_a_wrong_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path}\n"
    assert main(["runs", "--output", "nosuch://x"]) == 2
    assert main(["runs", "--outptu", "x"]) == 2
    assert "did you mean '--output'" in capsys.readouterr().err
