"""Time limits and cost of a night, with real processes that sleep."""

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from stratoscope.pipelines.audit import schedule
from stratoscope.pipelines.audit.config import AuditConfig
from stratoscope.pipelines.audit.schedule import Scheduler
from stratoscope.pipelines.audit.steps import Step, StepResult, all_steps
from stratoscope.pipelines.runtime.config import validate

SECOND = 1 / 3600


@pytest.fixture(autouse=True)
def frequent_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "POLL_S", 0.02)


class Sleeping(Scheduler):
    """Runs, in place of each job, a process that sleeps for the seconds of its model, none if there are none."""

    seconds: Mapping[str, float] = {}
    code = "pass"
    """What the process does before it sleeps."""

    def _command(self, step: Step, file: Path) -> list[str]:  # noqa: ARG002
        seconds = self.seconds.get(step.subject.display_name, 0)
        return [sys.executable, "-c", f"import time; {self.code}; time.sleep({seconds}); print('run: runs/x')"]


def night(
    folder: Path,
    seconds: Mapping[str, float],
    earlier: Mapping[str, StepResult] | None = None,
    code: str = "pass",
    **limits: float,
) -> dict[str, StepResult]:
    """Run three models' scores one after another, the first two on a GPU each; return how they ended."""
    gpu = {"gpus": 1, "workers": 1}
    names = {"a": gpu, "b": gpu, "c": {}}
    models = [{"source": "smollm2", "name": n, "stages": ["score"], "resources": r} for n, r in names.items()]
    limits = {"parallel": 1, **limits}
    settings = {"output": str(folder / "runs"), "models": models, "forecasters": [], "schedule": limits}
    config = validate(AuditConfig, settings)
    steps = all_steps(config, "night")
    scheduler = Sleeping(config, folder, threading.Event())
    scheduler.seconds, scheduler.code = seconds, code
    finished = scheduler.run(steps, earlier or {})
    return {step.subject.display_name: result for step, result in finished}


def test_when_the_hours_are_over_what_runs_is_stopped_and_nothing_else_begins(tmp_path: Path) -> None:
    results = night(tmp_path, {"b": 60}, hours=2 * SECOND)
    assert results["a"].succeeded
    assert results["b"].status == "over time"
    assert "the night's 0.000555556 hours are over" in str(results["b"].error)
    assert results["c"].status == "skipped"


def test_when_gpu_hours_are_used_up_only_what_takes_gpus_is_stopped(tmp_path: Path) -> None:
    results = night(tmp_path, {"a": 60}, gpu_hours=0.5 * SECOND)
    assert results["a"].status == "over time"
    assert "GPU hours are over" in str(results["a"].error)
    assert results["b"].status == "skipped"
    assert "GPU hours are used up" in str(results["b"].error)
    assert results["c"].succeeded


def test_gpu_hours_of_earlier_starts_count_however_they_ended(tmp_path: Path) -> None:
    earlier = {"a.score": StepResult("failed", None, 3600.0, "it broke")}
    results = night(tmp_path, {}, earlier, gpu_hours=0.9)
    assert [(results[name].status, results[name].seconds) for name in ("a", "b")] == [
        ("skipped", 3600.0),
        ("skipped", 0.0),
    ]
    assert results["c"].succeeded


def test_a_stage_that_is_run_again_takes_what_it_took_in_all(tmp_path: Path) -> None:
    results = night(tmp_path, {"a": 0.2}, {"a.score": StepResult("failed", None, 100.0, "it broke")})
    assert results["a"].succeeded
    assert 100.2 < results["a"].seconds < 160


def test_the_cpu_time_of_all_starts_is_added_up(tmp_path: Path) -> None:
    child = "import time\nwhile time.process_time() < .3: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    earlier = {
        "a.score": StepResult("failed", None, 10.0, "it broke", cpu_seconds=100.0),
        "b.score": StepResult("failed", None, 10.0, "it broke"),  # an earlier version has recorded it
    }
    results = night(tmp_path, {}, earlier, code)
    assert results["a"].cpu_seconds == pytest.approx(100.4, abs=0.2)
    assert results["a"].cpu_hours == pytest.approx(100.4 / 3600, abs=0.2 / 3600)
    assert results["b"].cpu_seconds == pytest.approx(0.4, abs=0.2)


def test_a_step_has_the_size_of_its_own_run_also_if_it_fails(tmp_path: Path) -> None:
    file = tmp_path / "runs/score/night.a/models/weights"
    code = f"import pathlib; f = pathlib.Path({str(file)!r}); f.parent.mkdir(parents=True, exist_ok=True)"
    results = night(tmp_path, {}, code=f"{code}; f.write_bytes(bytes(12345)); raise SystemExit(1)")
    assert [(name, result.status, result.num_bytes) for name, result in results.items()] == [
        ("a", "failed", 12345),
        ("b", "failed", 0),
        ("c", "failed", 0),
    ]
