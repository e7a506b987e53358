"""Previous nights, some of them damaged."""

from dataclasses import fields
from pathlib import Path

import pytest

from stratoscope.pipelines.audit.previous_runs import latest_results, previous_nights
from stratoscope.pipelines.audit.run import collect_trends
from stratoscope.results import Manifest, Run, RunFolder, write_table
from stratoscope.tables.audit import KeyMetricRow, StageRow


def write_night(output: Path, number: int) -> None:
    folder = RunFolder(str(output), "audit", f"n{number}")
    started = f"2026-11-0{number}T00:00:00+00:00"
    manifest = Manifest("audit", f"n{number}", {"name": "nightly"}, 0, started=started, status="done", exit_code=0)
    folder.write_manifest(manifest)
    metric = dict.fromkeys(field.name for field in fields(KeyMetricRow)) | {
        "model": "a", "stage": "score", "figure": "x", "kind": "fact", "value": float(number), "regression": False,
    }  # fmt: skip
    stage = dict.fromkeys(field.name for field in fields(StageRow)) | {
        "model": "a", "kind": "model", "stage": "score", "status": "done", "verdict": "steady", "job": "score",
        "stage_run_id": f"r{number}", "seconds": 1.0, "gpu_hours": 0.0, "changed": (), "regressions": (), "figures": (),
    }  # fmt: skip
    write_table(folder.storage, "figures", KeyMetricRow.table([KeyMetricRow(**metric)]))
    write_table(folder.storage, "models", StageRow.table([StageRow(**stage)]))


def nights(output: Path) -> list[Run]:
    return previous_nights(str(output), "nightly", "2026-12-01T00:00:00+00:00", "tonight")


@pytest.mark.parametrize("table", ["models", "figures"])
def test_a_damaged_night_is_left_out_with_a_note(table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        write_night(tmp_path, number)
    assert latest_results(nights(tmp_path))["a", "score"].night == "n2"
    file = tmp_path / "audit" / "n2" / f"{table}.parquet"
    file.write_bytes(file.read_bytes()[:100])
    result = latest_results(nights(tmp_path))["a", "score"]
    assert (result.night, result.metrics["x"].value) == ("n1", 1.0)
    assert f"{table}.parquet cannot be read, it is truncated or damaged" in caplog.text
    assert "the night n2 is left out of comparisons" in caplog.text


def test_trends_leave_a_night_without_key_metrics_out(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_night(tmp_path, number)
    (tmp_path / "audit" / "n2" / "figures.parquet").unlink()
    trends = collect_trends(nights(tmp_path), [], Manifest("audit", "tonight", {}, 0))
    assert [label.rpartition(" ")[2] for label in trends] == ["n1", "n3", "tonight"]
