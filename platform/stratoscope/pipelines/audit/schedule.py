"""Runs the steps of a night in parallel, each in a separate process, within the time limits."""

import os
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from stratoscope.errors import EXIT_DONE, EXIT_REFUSED, InputError, RunError
from stratoscope.execution import Process, ProcessResult, is_local
from stratoscope.phases import phase
from stratoscope.pipelines.audit.config import SECRETS, AuditConfig, Settings
from stratoscope.pipelines.audit.steps import Status, Step, StepResult
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.runtime.job_maker import LazyJob
from stratoscope.pipelines.runtime.request import request_digest
from stratoscope.pipelines.runtime.run_lookup import run_of_equal_request
from stratoscope.results import RunFolder

POLL_S = 0.2
PARALLEL_ON_CLUSTER = 4
"""Number of parallel stages on a cluster if schedule.parallel is not given. A single machine runs one at a time."""


@dataclass(frozen=True)
class _RunningStep:
    step: Step
    process: Process
    output: Path
    errors: Path


class Scheduler:
    """Runs steps.

    Args:
        config: configuration of the audit.
        folder: local folder for the configurations and the output of the processes.
        stopping: an event that stops running steps and prevents others from starting.
    """

    def __init__(self, config: AuditConfig, folder: Path, stopping: threading.Event) -> None:
        self._config, self._folder, self._stopping = config, folder, stopping
        self._parallel = config.schedule.parallel or (1 if is_local() else PARALLEL_ON_CLUSTER)
        self._start_time = time.monotonic()
        self._gpu_hours = 0.0
        """GPU hours of the steps that have ended."""

    def run(self, steps: Sequence[Step], earlier: Mapping[str, StepResult]) -> Generator[tuple[Step, StepResult]]:
        """Run the steps that have not succeeded yet, and yield the result of each.

        Args:
            steps: the steps, each listed after those that it waits for.
            earlier: results of earlier starts by step key. Successful steps do not run again. The time of all steps
                counts.

        Raises:
            RunError: SIGTERM has stopped the night.
        """
        results = {key: result for key, result in earlier.items() if result.succeeded}
        waiting = [step for step in steps if step.key not in results]
        self._gpu_hours = sum(step.gpus * earlier[step.key].seconds / 3600 for step in steps if step.key in earlier)
        failed = {key: result for key, result in earlier.items() if not result.succeeded}
        with (
            self._killed_at_end() as running,
            phase("", status=lambda: _labels(running), extent=lambda: _last_words(running)),
        ):
            while waiting or running:
                self._check_stopping(waiting, running)
                finished = [*self._start_ready(waiting, running, results)]
                self._stop_over_gpu_hours(running)
                finished += self._collect(running)
                for step, result in finished:
                    sized = replace(result, num_bytes=self._run_folder(step).storage.size())
                    results[step.key] = sized.with_earlier(failed.get(step.key))
                    yield step, results[step.key]
                time.sleep(POLL_S)

    def _check_stopping(self, waiting: Sequence[Step], running: list[_RunningStep]) -> None:
        if not self._stopping.is_set():
            return
        for one in running:
            one.process.stop()
        while any(one.process.poll() is None for one in running):
            time.sleep(POLL_S)
        running.clear()
        raise RunError(f"stopped by SIGTERM with {len(waiting)} steps not started; the same run_id resumes it")

    def _start_ready(
        self, waiting: list[Step], running: list[_RunningStep], results: Mapping[str, StepResult]
    ) -> Iterator[tuple[Step, StepResult]]:
        """Start the steps that are ready. Yield those that need no process: skipped and reused steps."""
        ready = [step for step in waiting if all(key in results for key in step.after)]
        for step in ready[: max(0, self._parallel - len(running))]:
            waiting.remove(step)
            reason = self._skip_reason(step, running, results)
            if reason:
                yield step, StepResult("skipped", None, 0.0, reason, cpu_seconds=0.0)
                continue
            config = self._configuration(step, results)
            with phase(f"{step.label}: looking for an equal run", quick=True):
                equal = self._equal_run(step, config) if self._config.reuse else None
            if equal:
                yield step, equal
            else:
                running.append(self._start(step, config))

    def _skip_reason(
        self, step: Step, running: Sequence[_RunningStep], results: Mapping[str, StepResult]
    ) -> str | None:
        """Return the reason why a step that is ready cannot start, or None."""
        failed = [key for key in step.after if not results[key].succeeded]
        if failed:
            return f"it depends on {failed[0]}, which was {results[failed[0]].status}"
        if self._seconds_left() <= 0:
            return f"{self._hours_text} are over"
        if step.gpus and self._gpu_hours_exhausted(running):
            return f"{self._gpu_hours_text} are used up"
        return None

    def _gpu_hours_exhausted(self, running: Sequence[_RunningStep]) -> bool:
        limit = self._config.schedule.gpu_hours
        in_progress = sum(one.step.gpus * one.process.seconds / 3600 for one in running)
        return limit is not None and self._gpu_hours + in_progress >= limit

    def _stop_over_gpu_hours(self, running: Sequence[_RunningStep]) -> None:
        """Stop the steps that use GPUs once the night's GPU hours are used up."""
        if self._gpu_hours_exhausted(running):
            for one in running:
                if one.step.gpus:
                    one.process.expire(self._gpu_hours_text)

    def _collect(self, running: list[_RunningStep]) -> Iterator[tuple[Step, StepResult]]:
        """Yield the results of the processes that have ended."""
        for one in list(running):
            process_result = one.process.poll()
            if process_result is not None:
                running.remove(one)
                self._gpu_hours += one.step.gpus * process_result.seconds / 3600
                yield one.step, _step_result(one, process_result)

    @property
    def _hours_text(self) -> str:
        return f"the night's {self._config.schedule.hours or 0:g} hours"

    @property
    def _gpu_hours_text(self) -> str:
        return f"the night's {self._config.schedule.gpu_hours or 0:g} GPU hours"

    def _seconds_left(self) -> float:
        hours = self._config.schedule.hours
        return float("inf") if hours is None else 3600 * hours - (time.monotonic() - self._start_time)

    def _configuration(self, step: Step, results: Mapping[str, StepResult]) -> Settings:
        runs = {name: run for name in step.stage.after if (run := _run_of(results, step.key_of(name)))}
        return step.configuration(self._config.output, self._config.seed, runs, reuse=self._config.reuse)

    def _equal_run(self, step: Step, settings: Settings) -> StepResult | None:
        """Return the result of a step if a finished run has an equal request, so that no process is needed."""
        start, cpu_start, job = time.monotonic(), time.process_time(), step.stage.job
        if not isinstance(job, LazyJob):
            return None  # a job of another package may read files that its settings do not name
        try:
            config = validate(job.config_class, settings)
        except InputError:
            return None  # the stage's own process reports the error
        if self._run_folder(step).read_manifest() is not None:
            return None  # the stage resumes the run of an earlier start of this night
        request = request_digest(job.name, config, os.environ | self._cpu_limit())
        equal = run_of_equal_request(config.output, job.name, request)
        if equal is None:
            return None
        run = RunFolder(config.output, job.name, equal.run_id).url
        (self._folder / f"{step.key}.err").write_text(f"{job.name}: {run} has the same request\n", encoding="utf-8")
        cpu_seconds = time.process_time() - cpu_start
        return StepResult("reused", run, time.monotonic() - start, None, cpu_seconds=cpu_seconds)

    def _run_folder(self, step: Step) -> RunFolder:
        """Return the folder of a step's own run. It does not exist if the step reuses another run."""
        return RunFolder(self._config.output, step.stage.job.name, step.run_id)

    def _start(self, step: Step, config: Settings) -> _RunningStep:
        file = self._folder / f"{step.key}.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        seconds_left = self._seconds_left()
        output, errors = self._folder / f"{step.key}.out", self._folder / f"{step.key}.err"
        process = Process(
            self._command(step, file),
            output=output,
            errors=errors,
            seconds=min(step.seconds, seconds_left),
            limit=self._hours_text if seconds_left < step.seconds else f"its {step.seconds / 3600:g} hours",
            environment=dict.fromkeys(SECRETS, "") | self._cpu_limit(),
        )
        return _RunningStep(step, process, output, errors)

    def _command(self, step: Step, file: Path) -> list[str]:
        module = "stratoscope.pipelines.audit.stage_process"
        return [sys.executable, "-m", module, str(os.getpid()), step.stage.name, "--config", str(file)]

    def _cpu_limit(self) -> dict[str, str]:
        """Return the variable that limits a stage's share of this machine's CPUs, or nothing if it may use all."""
        if not is_local() or self._parallel == 1:
            return {}
        return {"STRATOSCOPE_CPUS": str(max(1, len(os.sched_getaffinity(0)) // self._parallel))}

    @staticmethod
    @contextmanager
    def _killed_at_end() -> Iterator[list[_RunningStep]]:
        """Yield a list of running steps. Their processes are killed when the block ends, also after an error."""
        running: list[_RunningStep] = []
        try:
            yield running
        finally:
            for one in running:
                one.process.kill()


def _labels(running: Sequence[_RunningStep]) -> str:
    """Return the labels of the running steps, for the phase of the night."""
    return "; ".join(one.step.label for one in running)


def _last_words(running: Sequence[_RunningStep]) -> str:
    """Return the last line of each running step, for repetitions of the phase."""
    latest = ((max(one.output, one.errors, key=lambda file: file.stat().st_mtime)) for one in running)
    return "; ".join(line for file in latest if (line := _last_line(file)))


def _run_of(results: Mapping[str, StepResult], key: str) -> str | None:
    return results[key].run if key in results else None


def _step_result(one: _RunningStep, process: ProcessResult) -> StepResult:
    """Return the result of a step whose process has ended."""
    run = _last_value(one.output, "run: ")
    if process.code == EXIT_DONE and run:
        reused = run.rstrip("/").rsplit("/", 1)[-1] != one.step.run_id
        return StepResult("reused" if reused else "done", run, process.seconds, None, process.cpu_seconds)
    status, error = _failure(one, process)
    return StepResult(status, None, process.seconds, error, process.cpu_seconds)


def _failure(one: _RunningStep, process: ProcessResult) -> tuple[Status, str]:
    if process.exceeded:
        return "over time", f"it was stopped after {process.seconds / 3600:.2g} hours: {process.exceeded} are over"
    if process.code < 0:
        return "failed", f"its process was killed by signal {-process.code}"
    job = one.step.stage.job.name
    error = _last_value(one.errors, f"{job}: ") or _last_line(one.errors) or f"its process ended with {process.code}"
    return "refused" if process.code == EXIT_REFUSED else "failed", error


def _last_value(file: Path, prefix: str) -> str | None:
    """Return the text after a prefix in the last line of a file that begins with this prefix."""
    lines = [line for line in _lines(file) if line.startswith(prefix)]
    return lines[-1].removeprefix(prefix) if lines else None


def _last_line(file: Path) -> str | None:
    lines = [line for line in _lines(file) if line.strip()]
    return lines[-1] if lines else None


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").splitlines()
