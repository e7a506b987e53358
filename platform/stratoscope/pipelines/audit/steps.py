"""The steps of a night: each subject's stages, with their configurations, checked before anything starts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stratoscope.errors import InputError
from stratoscope.models import resolve_source
from stratoscope.pipelines.audit.config import AuditConfig, ModelEntry, Settings, Subject
from stratoscope.pipelines.audit.stages import Runs, Stage, stage_of
from stratoscope.pipelines.runtime.config import merged, validate
from stratoscope.results import RunFolder, Storage

FOLDER = "steps"
PROCESSES = "processes"
"""Folder of the night with each stage's configuration and what its process printed."""
TAKEN = ("output", "run_id", "reuse", "dry_run")
"""Fields of every job that are not for the audit file to set."""
Lost = Literal["failed", "refused", "over time", "skipped"]
Status = Literal["done", "reused"] | Lost
FINE: tuple[Status, ...] = ("done", "reused")


@dataclass(frozen=True)
class Step:
    """A stage of a subject."""

    subject: Subject
    stage: Stage
    run_id: str
    """Of the run that it makes."""
    seconds: float
    """Most that it may take."""
    common: Settings
    """Of its job's configuration, what the audit says for all subjects."""

    @property
    def key(self) -> str:
        """Its name, unique in the night."""
        return self.key_of(self.stage.name)

    def key_of(self, stage: str) -> str:
        """Return the key of a stage of the same subject."""
        return f"{self.subject.slug}.{stage}"

    @property
    def after(self) -> list[str]:
        """Keys of the steps that it waits for."""
        return [self.key_of(name) for name in self.stage.after if name in self.subject.stages]

    @property
    def gpus(self) -> float:
        """GPUs that it was said to take."""
        resources = self.subject.resources
        return (resources.gpus or 0.0) * (resources.workers or 1)

    def configuration(self, output: str, seed: int, runs: Runs, *, reuse: bool) -> Settings:
        """Return its job's configuration.

        Args:
            output: that holds all runs.
            seed: of the audit, unless its settings name another.
            runs: folders of the runs that it stands on, by stage.
            reuse: whether a finished equal run is taken.
        """
        own = {"output": output, "run_id": self.run_id, "reuse": reuse}
        said = merged(self.common, self.stage.settings(self.subject, runs))
        return merged(merged({"seed": seed}, merged(said, self.subject.overrides.get(self.stage.name, {}))), own)


@dataclass(frozen=True)
class StepEnd:
    """How a step ended."""

    status: Status
    run: str | None
    """Folder of its run, where it has one."""
    seconds: float
    """Of all starts in which it came to an end."""
    error: str | None

    @property
    def fine(self) -> bool:
        """Whether its run can be built upon."""
        return self.status in FINE


class StepStore:
    """The ends of a night's steps, in its folder."""

    def __init__(self, run: Storage) -> None:
        self._storage = run.child(FOLDER)

    def write(self, key: str, end: StepEnd) -> None:
        """Keep how a step ended."""
        self._storage.write(f"{key}.json", json.dumps(asdict(end)).encode())

    def read(self) -> dict[str, StepEnd]:
        """Return how steps ended, by key."""
        names = [name for name in self._storage.names() if name.endswith(".json")]
        contents = self._storage.read_all(names)
        return {name.removesuffix(".json"): StepEnd(**json.loads(content)) for name, content in contents.items()}


def all_steps(config: AuditConfig, run_id: str) -> list[Step]:
    """Return a night's steps, subject by subject.

    Raises:
        InputError: a stage is unknown, a model is not there, or a configuration is wrong; the message says where.
    """
    known = {name for subject in config.subjects for name in subject.stages}
    unused = sorted(set(config.settings) - known)
    if unused:
        raise InputError(
            f"settings.{unused[0]}: no model and no forecaster has that stage; its stages are {sorted(known)}"
        )
    steps: list[Step] = []
    for subject in config.subjects:
        counted = config.schedule.gpu_hours is not None and isinstance(subject, ModelEntry)
        if counted and subject.resources.gpus and subject.resources.workers is None:
            raise InputError(
                f"schedule.gpu_hours counts GPUs times workers; give {subject.called!r} resources.workers, too"
            )
        if isinstance(subject, ModelEntry):
            _checked(subject.called, lambda entry=subject: resolve_source(entry.source, entry.revision))
        strange = sorted(set(subject.overrides) - set(subject.stages))
        if strange:
            raise InputError(f"{subject.called}: overrides.{strange[0]}: {strange[0]!r} is none of its stages")
        hours = subject.hours or config.schedule.stage_hours
        for name in subject.stages:
            stage = _checked(subject.called, lambda n=name, s=subject: stage_of(n, s))
            own = f"{run_id}.{subject.slug}" if name == stage.job.name else f"{run_id}.{subject.slug}.{name}"
            step = Step(subject, stage, own, 3600 * hours, config.settings.get(name, {}))
            where = f"{subject.called}, stage {name}"
            _checked(where, lambda step=step: _validated(step, config))
            steps.append(step)
    return _in_order(steps)


def _validated(step: Step, config: AuditConfig) -> None:
    """See that a step's configuration would do, without the runs that it stands on."""
    for given in (step.common, step.subject.overrides.get(step.stage.name, {})):
        taken = [name for name in TAKEN if name in given]
        if taken:
            raise InputError(f"field {taken[0]!r} is the audit's own; leave it out")
        if "source" in (given.get("model") or {}):
            raise InputError("field 'model.source' is the audit's own; add another model with its own name")
        if "forecasters" in (given.get("grid") or {}):
            raise InputError("field 'grid.forecasters' is the audit's own; add another forecaster")
    RunFolder(config.output, step.stage.job.name, step.run_id)
    asked = step.configuration(config.output, config.seed, {}, reuse=config.reuse)
    validate(step.stage.job.config_class, asked)


def _checked(where: str, check: Any) -> Any:
    try:
        return check()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _in_order(steps: Sequence[Step]) -> list[Step]:
    """Return steps so that each comes after those that it waits for."""
    ordered: list[Step] = []
    waiting = list(steps)
    while waiting:
        left = {step.key for step in waiting}
        ready = [step for step in waiting if not left & set(step.after)]
        if not ready:
            raise InputError(f"stages wait for each other in a circle: {', '.join(sorted(left))}")
        ordered += ready
        waiting = [step for step in waiting if step not in ready]
    return ordered
