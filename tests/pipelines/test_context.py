import io
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from stratoscope.errors import RunError
from stratoscope.phases import announcing
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.runtime.terminal import Terminal
from stratoscope.results import Lease, Manifest, Page, RunFolder, lease, read_holder


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    folder = RunFolder(str(tmp_path), "score", "one")
    return RunContext(folder, Manifest("score", "one", {}, 0), Terminal(Console(file=io.StringIO())))


def test_a_stage_adds_its_duration_to_the_manifest(context: RunContext) -> None:
    with context.stage("load"):
        time.sleep(0.02)
    first = context.manifest.timings["load"]
    assert first >= 0.02
    with context.stage("load"):
        time.sleep(0.02)
    assert context.manifest.timings["load"] >= first + 0.02
    with pytest.raises(ZeroDivisionError), context.stage("fail"):
        1 / 0  # noqa: B018
    assert "fail" in context.manifest.timings


def test_a_stage_and_its_progress_are_announced(context: RunContext) -> None:
    lines: list[str] = []
    with (
        announcing("score", lines.append, repeat_s=0.1),
        context.stage("measure", "measuring prompts"),
        context.progress("score", 4, 1, "prompts"),
    ):
        time.sleep(0.5)
    assert lines[0] == "score: measuring prompts"
    assert lines[1].startswith("score: measuring prompts, 1/4 prompts, for ")


def test_no_stage_begins_after_the_stop_signal(context: RunContext) -> None:
    context.stopping.set()
    with pytest.raises(RunError, match="before the stage evaluate"), context.stage("evaluate"):
        raise AssertionError("it began")
    assert "evaluate" not in context.manifest.timings


def test_a_job_within_a_job_shares_its_stop_signal(context: RunContext) -> None:
    inner = RunContext(context.folder, context.manifest, context.terminal, context.stopping)
    context.stopping.set()
    assert inner.stopping.is_set()
    assert not RunContext(context.folder, context.manifest, context.terminal).stopping.is_set()


def test_progress_is_shown_and_published_with_the_lease(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    monkeypatch.setattr(lease, "SETTLE_S", 0.0)
    with Lease(context.storage) as context.lease, context.progress("score", 4, 1, "prompts", "tokens") as progress:
        progress.add(3, 30.0, errors=2)
        assert progress.done == 4
        waited = threading.Event()
        for _ in range(500):
            holder = read_holder(context.storage)
            if holder is not None and holder.progress.get("done") == 4:
                break
            waited.wait(0.01)
        assert holder is not None
        assert {name: holder.progress[name] for name in ("done", "total", "errors")} == {
            "done": 4,
            "total": 4,
            "errors": 2,
        }
        assert holder.progress["rate"] > 0
    assert read_holder(context.storage) is None
    assert isinstance(context.console.file, io.StringIO)
    assert "score: 4/4" in context.console.file.getvalue()


def test_progress_needs_no_lease(context: RunContext) -> None:
    with context.progress("score", 2, 0, "prompts") as progress:
        progress.add()
        progress.add()
    assert progress.done == 2


def test_readers_see_the_run_through_its_storage_and_manifest(context: RunContext) -> None:
    context.write_report(Page("Title", "Lead.", []))
    run = context.run
    assert (run.path, run.manifest) == (context.url, context.manifest)
    assert "Title" in Path(run.report_path).read_text(encoding="utf-8")
