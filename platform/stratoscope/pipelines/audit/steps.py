"""The steps of a night: the stages of each subject. Their configurations are validated before any step starts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from stratoscope.errors import DamagedFileError, InputError
from stratoscope.execution import is_local
from stratoscope.models import resolve_source
from stratoscope.phases import tell
from stratoscope.pipelines.audit.config import AuditConfig, ModelEntry, Settings, Subject
from stratoscope.pipelines.audit.stages import Runs, Stage, get_stage
from stratoscope.pipelines.runtime.config import JobConfig, merged, validate
from stratoscope.pipelines.runtime.surroundings import check_machine
from stratoscope.results import RunFolder, Storage

FOLDER = "steps"
PROCESSES = "processes"
"""Folder in the night's run with the configuration and the output of each stage's process."""
RESERVED_FIELDS = ("output", "run_id", "reuse", "dry_run")
"""Fields of every job that the audit itself sets."""
FailureStatus = Literal["failed", "refused", "over time", "skipped"]
Status = Literal["done", "reused"] | FailureStatus
SUCCESS: tuple[Status, ...] = ("done", "reused")


@dataclass(frozen=True)
class Step:
    """A stage of a subject."""

    subject: Subject
    stage: Stage
    run_id: str
    """Run_id of the stage's run, unless an equal run is reused."""
    seconds: float
    """Time limit in seconds."""
    common: Settings
    """Settings of the stage that the audit specifies for all subjects."""

    @property
    def key(self) -> str:
        """Name of the step, unique in the night."""
        return self.key_of(self.stage.name)

    @property
    def label(self) -> str:
        """Names of subject and stage, for messages."""
        return f"{self.subject.display_name}, {self.stage.name}"

    def key_of(self, stage: str) -> str:
        """Return the key of a stage of the same subject."""
        return f"{self.subject.slug}.{stage}"

    @property
    def after(self) -> list[str]:
        """Keys of the steps that this step waits for."""
        return [self.key_of(name) for name in self.stage.after if name in self.subject.stages]

    @property
    def gpus(self) -> float:
        """Number of GPUs that the subject's resources request."""
        resources = self.subject.resources
        return (resources.gpus or 0.0) * (resources.workers or 1)

    @property
    def overrides(self) -> Settings:
        """Settings of the stage that its subject specifies."""
        return self.subject.overrides.get(self.stage.name, {})

    def configuration(self, output: str, seed: int, runs: Runs, *, reuse: bool) -> Settings:
        """Return the configuration of the stage's job.

        Args:
            output: folder that holds all runs.
            seed: seed of the audit, which the settings may override.
            runs: folders of the runs that the stage depends on, by stage.
            reuse: whether to reuse a finished equal run.
        """
        reserved = {"output": output, "run_id": self.run_id, "reuse": reuse}
        settings: Settings = {"seed": seed}
        for more in (self.common, self.stage.settings(self.subject, runs), self.overrides, reserved):
            settings = merged(settings, more)
        return settings


@dataclass(frozen=True)
class StepResult:
    """The outcome of a step."""

    status: Status
    run: str | None
    """Folder of the run, where the step succeeded."""
    seconds: float
    """Total duration in seconds of all starts that ended."""
    error: str | None
    cpu_seconds: float | None = None
    """Total CPU seconds of all starts that ended; None if an earlier version recorded the result."""
    num_bytes: int | None = None
    """Size of the step's own run folder in bytes; None if an earlier version recorded the result."""

    @property
    def cpu_hours(self) -> float | None:
        """Total CPU hours of all starts that ended."""
        return None if self.cpu_seconds is None else self.cpu_seconds / 3600

    def with_earlier(self, earlier: "StepResult | None") -> "StepResult":
        """Return the result with the seconds and CPU seconds of earlier, unsuccessful starts added."""
        if earlier is None:
            return self
        cpu_seconds = (self.cpu_seconds or 0.0) + (earlier.cpu_seconds or 0.0)
        return replace(self, seconds=self.seconds + earlier.seconds, cpu_seconds=cpu_seconds)

    @property
    def succeeded(self) -> bool:
        """Whether other stages can use the run."""
        return self.status in SUCCESS


class StepStore:
    """The results of a night's steps, in its run folder."""

    def __init__(self, run: Storage) -> None:
        self._storage = run.child(FOLDER)

    def write(self, key: str, result: StepResult) -> None:
        """Store the result of a step."""
        self._storage.write(f"{key}.json", json.dumps(asdict(result)).encode())

    def read(self) -> dict[str, StepResult]:
        """Return the results by key of the step."""
        names = [name for name in self._storage.names() if name.endswith(".json")]
        contents = self._storage.read_all(names)
        results = {}
        for name, content in contents.items():
            try:
                results[name.removesuffix(".json")] = StepResult(**json.loads(content))
            except (ValueError, TypeError) as error:
                tell(f"{DamagedFileError(self._storage.url(name), error)}; the stage runs again")
        return results


def all_steps(config: AuditConfig, run_id: str) -> list[Step]:
    """Return the steps of a night, each listed after the steps that it waits for.

    Raises:
        InputError: a stage is unknown, a model does not exist, or a configuration is invalid; the message names it.
    """
    stages = {name for subject in config.subjects for name in subject.stages}
    unused = sorted(set(config.settings) - stages)
    if unused:
        raise InputError(
            f"settings.{unused[0]}: no model and no forecaster has that stage; the stages are {sorted(stages)}"
        )
    steps = []
    for subject in config.subjects:
        _check_subject(subject, config)
        steps += [_step(subject, name, config, run_id) for name in subject.stages]
    return _in_order(steps)


def _check_subject(subject: Subject, config: AuditConfig) -> None:
    """Check everything that does not depend on a stage: GPU hours, the model's source, and the names in overrides."""
    name, resources = subject.display_name, subject.resources
    limited = config.schedule.gpu_hours is not None and subject.kind == "model"
    if limited and resources.gpus and resources.workers is None:
        raise InputError(f"schedule.gpu_hours counts GPUs times workers; give {name!r} resources.workers, too")
    if isinstance(subject, ModelEntry):
        with _name_in_errors(name):
            resolve_source(subject.source, subject.revision)
    unknown = sorted(set(subject.overrides) - set(subject.stages))
    if unknown:
        raise InputError(f"{name}: overrides.{unknown[0]}: {unknown[0]!r} is none of its stages")


def _step(subject: Subject, name: str, config: AuditConfig, run_id: str) -> Step:
    with _name_in_errors(subject.display_name):
        stage = get_stage(name, subject)
    suffix = "" if name == stage.job.name else f".{name}"
    hours = subject.hours or config.schedule.stage_hours
    step = Step(subject, stage, f"{run_id}.{subject.slug}{suffix}", 3600 * hours, config.settings.get(name, {}))
    with _name_in_errors(f"{subject.display_name}, stage {name}"):
        _check_configuration(step, config)
    return step


def _check_configuration(step: Step, config: AuditConfig) -> None:
    """Validate the configuration of a step's job, as far as it does not depend on other runs."""
    for settings in (step.common, step.overrides):
        reserved = [name for name in RESERVED_FIELDS if name in settings]
        if reserved:
            raise InputError(f"field {reserved[0]!r} is the audit's own; leave it out")
        if "source" in _section(settings, "model"):
            raise InputError("field 'model.source' is the audit's own; add another model with its own name")
        if "forecasters" in _section(settings, "grid"):
            raise InputError("field 'grid.forecasters' is the audit's own; add another forecaster")
    RunFolder(config.output, step.stage.job.name, step.run_id)
    _job_config(step, config)


def _job_config(step: Step, config: AuditConfig) -> JobConfig:
    """Return the configuration of a step's job, as far as it does not depend on other runs."""
    return validate(step.stage.job.config_class, step.configuration(config.output, config.seed, {}, reuse=config.reuse))


def check_resources(steps: Sequence[Step], config: AuditConfig) -> None:
    """Check that this machine has what each step asks for, unless a cluster runs the steps.

    Raises:
        InputError: a resource is missing; the message names the step and the field.
    """
    for step in steps if is_local() else ():
        with _name_in_errors(f"{step.subject.display_name}, stage {step.stage.name}"):
            check_machine(_job_config(step, config).demands())


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a job's settings; empty where it is missing.

    Raises:
        InputError: the settings contain a value instead of the section.
    """
    section = settings.get(name)
    if section is not None and not isinstance(section, Mapping):
        raise InputError(f"{name} {section!r}: {name} is a section; give its fields by name")
    return section or {}


@contextmanager
def _name_in_errors(place: str) -> Iterator[None]:
    """Prefix the message of an input error with the place where it occurred."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def _in_order(steps: Sequence[Step]) -> list[Step]:
    """Return the steps in an order in which each comes after those that it waits for."""
    ordered: list[Step] = []
    waiting = list(steps)
    while waiting:
        keys = {step.key for step in waiting}
        ready = [step for step in waiting if not keys & set(step.after)]
        if not ready:
            raise InputError(f"stages wait for each other in a circle: {', '.join(sorted(keys))}")
        ordered += ready
        waiting = [step for step in waiting if step not in ready]
    return ordered
