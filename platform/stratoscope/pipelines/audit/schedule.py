"""Running the steps of a night: several at a time, each in a process of its own, within its time and the night's."""

import os
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from stratoscope.errors import RunError
from stratoscope.execution import Process, ProcessResult, is_local
from stratoscope.pipelines.audit.config import SECRETS, AuditConfig
from stratoscope.pipelines.audit.steps import Step, StepEnd
from stratoscope.pipelines.runtime.job import EXIT_DONE, EXIT_REFUSED

POLL_S = 0.2
ON_A_CLUSTER = 4
"""Stages at a time where schedule.parallel is not given; on one machine it is one, and takes all of it."""


@dataclass(frozen=True)
class _Running:
    """A step in work."""

    step: Step
    process: Process
    output: Path
    errors: Path


class Scheduler:
    """Runs steps.

    Args:
        config: of the audit.
        folder: local, for the processes' configurations and what they print.
        stopping: once it is set, running steps are told to stop, and no other begins.
    """

    def __init__(self, config: AuditConfig, folder: Path, stopping: threading.Event) -> None:
        self._config, self._folder, self._stopping = config, folder, stopping
        self._parallel = config.schedule.parallel or (1 if is_local() else ON_A_CLUSTER)
        self._began = time.monotonic()
        self._gpu_hours = 0.0
        """Of steps that have ended."""

    def run(self, steps: Sequence[Step], ended: Mapping[str, StepEnd]) -> Generator[tuple[Step, StepEnd]]:
        """Run the steps that have not ended well yet, and yield how each ended.

        Args:
            steps: each after those that it waits for.
            ended: how steps ended in earlier starts, all of whose time counts; those that ended well are not run again.

        Raises:
            RunError: the night was told to stop.
        """
        ends = {key: end for key, end in ended.items() if end.fine}
        waiting = [step for step in steps if step.key not in ends]
        self._gpu_hours = sum(step.gpus * ended[step.key].seconds / 3600 for step in steps if step.key in ended)
        spent = {key: end.seconds for key, end in ended.items() if not end.fine}
        with self._children() as running:
            while waiting or running:
                if self._stopping.is_set():
                    self._wind_up(running)
                    raise RunError(
                        f"stopped by SIGTERM with {len(waiting)} steps to go; the same run_id goes on from there"
                    )
                for step in self._startable(waiting, running, ends):
                    why_not = self._why_not(step, running, ends)
                    waiting.remove(step)
                    if why_not:
                        ends[step.key] = StepEnd("skipped", None, spent.get(step.key, 0.0), why_not)
                        yield step, ends[step.key]
                    else:
                        running.append(self._start(step, ends))
                self._stop_beyond(running)
                for one in list(running):
                    ended_now = one.process.poll()
                    if ended_now is not None:
                        running.remove(one)
                        self._gpu_hours += one.step.gpus * ended_now.seconds / 3600
                        ends[one.step.key] = _end(one, ended_now, spent.get(one.step.key, 0.0))
                        yield one.step, ends[one.step.key]
                time.sleep(POLL_S)

    def _startable(
        self, waiting: Sequence[Step], running: Sequence[_Running], ends: Mapping[str, StepEnd]
    ) -> list[Step]:
        ready = [step for step in waiting if all(key in ends for key in step.after)]
        return ready[: max(0, self._parallel - len(running))]

    def _why_not(self, step: Step, running: Sequence[_Running], ends: Mapping[str, StepEnd]) -> str | None:
        """Return why a step that is ready cannot begin."""
        schedule = self._config.schedule
        lost = [key for key in step.after if not ends[key].fine]
        if lost:
            return f"it stands on {lost[0]}, which was {ends[lost[0]].status}"
        if schedule.hours is not None and self._left() <= 0:
            return f"{self._of_hours} are over"
        if step.gpus and self._gpus_are_used_up(running):
            return f"{self._of_gpu_hours} are used up"
        return None

    def _gpus_are_used_up(self, running: Sequence[_Running]) -> bool:
        limit = self._config.schedule.gpu_hours
        now = sum(one.step.gpus * one.process.seconds / 3600 for one in running)
        return limit is not None and self._gpu_hours + now >= limit

    def _stop_beyond(self, running: Sequence[_Running]) -> None:
        """Stop what takes GPUs when the night's GPU hours are used up."""
        if self._gpus_are_used_up(running):
            for one in running:
                if one.step.gpus:
                    one.process.expire(self._of_gpu_hours)

    @property
    def _of_hours(self) -> str:
        return f"the night's {self._config.schedule.hours or 0:g} hours"

    @property
    def _of_gpu_hours(self) -> str:
        return f"the night's {self._config.schedule.gpu_hours or 0:g} GPU hours"

    def _left(self) -> float:
        """Return the seconds that are left of the night."""
        hours = self._config.schedule.hours
        return float("inf") if hours is None else 3600 * hours - (time.monotonic() - self._began)

    def _start(self, step: Step, ends: Mapping[str, StepEnd]) -> _Running:
        runs = {name: end.run for name in step.stage.after if (end := ends.get(step.key_of(name))) and end.run}
        config = step.configuration(self._config.output, self._config.seed, runs, reuse=self._config.reuse)
        file = self._folder / f"{step.key}.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        left = self._left()
        output, errors = self._folder / f"{step.key}.out", self._folder / f"{step.key}.err"
        process = Process(
            self._command(step, file),
            output=output,
            errors=errors,
            seconds=min(step.seconds, left),
            limit=self._of_hours if left < step.seconds else f"its {step.seconds / 3600:g} hours",
            environment=dict.fromkeys(SECRETS, "") | self._share(),
        )
        return _Running(step, process, output, errors)

    def _command(self, step: Step, file: Path) -> list[str]:
        module = "stratoscope.pipelines.audit.stage_process"
        return [sys.executable, "-m", module, str(os.getpid()), step.stage.name, "--config", str(file)]

    def _share(self) -> dict[str, str]:
        """Return the variable that says how many of this machine's CPUs a stage may take, where it is not all."""
        if not is_local() or self._parallel == 1:
            return {}
        return {"STRATOSCOPE_CPUS": str(max(1, len(os.sched_getaffinity(0)) // self._parallel))}

    @staticmethod
    @contextmanager
    def _children() -> Iterator[list[_Running]]:
        """Yield a list of what runs; whatever ends the block, nothing in it is left running."""
        running: list[_Running] = []
        try:
            yield running
        finally:
            for one in running:
                one.process.kill()

    @staticmethod
    def _wind_up(running: list[_Running]) -> None:
        for one in running:
            one.process.stop()
        while any(one.process.poll() is None for one in running):
            time.sleep(POLL_S)
        running.clear()


def _end(one: _Running, ended: ProcessResult, spent: float) -> StepEnd:
    """Return how a step ended; `spent` are seconds of earlier starts in which it did not end well."""
    seconds = spent + ended.seconds
    run = _told(one.output, "run: ")
    if ended.code == EXIT_DONE and run:
        reused = run.rstrip("/").rsplit("/", 1)[-1] != one.step.run_id
        return StepEnd("reused" if reused else "done", run, seconds, None)
    name = one.step.stage.job.name
    error = _told(one.errors, f"{name}: ") or _last_line(one.errors) or f"its process ended with {ended.code}"
    if ended.exceeded:
        said = f"it was stopped after {ended.seconds / 3600:.2g} hours: {ended.exceeded} are over"
        return StepEnd("over time", None, seconds, said)
    if ended.code == EXIT_REFUSED:
        return StepEnd("refused", None, seconds, error)
    if ended.code < 0:
        error = f"its process was killed by signal {-ended.code}"
    return StepEnd("failed", None, seconds, error)


def _told(file: Path, beginning: str) -> str | None:
    """Return what follows on the last line of a file that begins so."""
    lines = [
        line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith(beginning)
    ]
    return lines[-1].removeprefix(beginning) if lines else None


def _last_line(file: Path) -> str | None:
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else None
