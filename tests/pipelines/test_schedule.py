"""What a night's budgets stop, and what they leave alone, with real processes that take their time."""

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from stratoscope.pipelines.audit.config import AuditConfig
from stratoscope.pipelines.audit.schedule import Scheduler
from stratoscope.pipelines.audit.steps import Step, StepEnd, all_steps
from stratoscope.pipelines.runtime.config import validate

SECOND = 1 / 3600


class Sleeping(Scheduler):
    """Runs, in place of each job, a process that sleeps."""

    def _command(self, step: Step, file: Path) -> list[str]:  # noqa: ARG002
        return [sys.executable, "-c", "import time; time.sleep(1.5); print('run: runs/x')"]


def night(folder: Path, earlier: Mapping[str, StepEnd] | None = None, **schedule: float) -> dict[str, StepEnd]:
    """Run three models' scores one after another, the first two on a GPU each; return how they ended."""
    gpu = {"gpus": 1, "workers": 1}
    names = {"a": gpu, "b": gpu, "c": {}}
    models = [{"source": "smollm2", "name": n, "stages": ["score"], "resources": r} for n, r in names.items()]
    config = validate(AuditConfig, {"models": models, "forecasters": [], "schedule": {"parallel": 1, **schedule}})
    steps = all_steps(config, "night")
    found = Sleeping(config, folder, threading.Event()).run(steps, earlier or {})
    return {step.subject.called: end for step, end in found}


def test_when_the_hours_are_over_what_runs_is_stopped_and_nothing_else_begins(tmp_path: Path) -> None:
    ends = night(tmp_path, hours=2 * SECOND)
    assert ends["a"].fine
    assert ends["b"].status == "over time"
    assert "the night's 0.000555556 hours are over" in str(ends["b"].error)
    assert ends["c"].status == "skipped"


def test_when_gpu_hours_are_used_up_only_what_takes_gpus_is_stopped(tmp_path: Path) -> None:
    ends = night(tmp_path, gpu_hours=0.5 * SECOND)
    assert ends["a"].status == "over time"
    assert "GPU hours are over" in str(ends["a"].error)
    assert ends["b"].status == "skipped"
    assert "GPU hours are used up" in str(ends["b"].error)
    assert ends["c"].fine


def test_gpu_hours_of_earlier_starts_count_however_they_ended(tmp_path: Path) -> None:
    earlier = {"a.score": StepEnd("failed", None, 3600.0, "it broke")}
    ends = night(tmp_path, earlier, gpu_hours=0.9)
    assert [(ends[name].status, ends[name].seconds) for name in ("a", "b")] == [("skipped", 3600.0), ("skipped", 0.0)]
    assert ends["c"].fine


def test_a_stage_that_is_run_again_takes_what_it_took_in_all(tmp_path: Path) -> None:
    ends = night(tmp_path, {"a.score": StepEnd("failed", None, 100.0, "it broke")})
    assert ends["a"].fine
    assert 101 < ends["a"].seconds < 160
