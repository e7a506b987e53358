"""The fields of the audit job."""

import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from stratoscope.pipelines.runtime.config import NOT_IN_IDENTITY, ConfigSection, JobConfig
from stratoscope.pipelines.runtime.validators import DISTINCT

LONGEST_SLUG = 40
WEBHOOK_URL, WEBHOOK_TOKEN = "STRATOSCOPE_WEBHOOK_URL", "STRATOSCOPE_WEBHOOK_TOKEN"
SECRETS = (WEBHOOK_URL, WEBHOOK_TOKEN)
"""Variables that stages have no business with."""
Settings = dict[str, Any]


class ResourcesSection(ConfigSection):
    """What a model's stages may take; null leaves it to each job."""

    cpus: int | None = Field(None, ge=1)
    """CPUs of each worker."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of each worker."""
    workers: int | None = Field(None, ge=1)
    """Most workers."""


class Subject(ConfigSection):
    """What stages are run on."""

    named_by: ClassVar[str]
    """The field that says what it is."""
    name: str | None = None
    """What it is called on the page; null takes the last part of its source."""
    stages: Annotated[list[str], DISTINCT]
    """Stages, in any order; one that stands on another waits for it."""
    overrides: dict[str, Settings] = {}
    """Settings by stage, over those of `settings`."""
    resources: ResourcesSection = Field(ResourcesSection(), json_schema_extra=NOT_IN_IDENTITY)
    """What its stages may take."""
    hours: float | None = Field(None, gt=0, json_schema_extra=NOT_IN_IDENTITY)
    """Most hours of each of its stages; null is schedule.stage_hours."""

    @property
    def called(self) -> str:
        """Its name."""
        source: str = getattr(self, self.named_by)
        return self.name or source.rstrip("/").rsplit("/", 1)[-1]

    @property
    def slug(self) -> str:
        """Its name as a part of run ids."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.called).strip("-.")[:LONGEST_SLUG] or "subject"


class ModelEntry(Subject):
    """A language model."""

    named_by: ClassVar[str] = "source"
    source: str
    """A hub name (owner/model), a folder, a .gguf file, or 'smollm2'."""
    revision: str | None = None
    """Branch, tag or commit of a hub name."""
    dtype: str | None = None
    """Number format; null leaves it to each job."""
    stages: Annotated[list[str], DISTINCT] = Field(["score", "hallucination"], min_length=1)
    """score, hallucination, search, mitigation."""


class ForecasterEntry(Subject):
    """A forecaster."""

    named_by: ClassVar[str] = "forecaster"
    forecaster: str
    """timesieve, dlinear, linear, last_value, patchtst, patchtsmixer, or one of an installed package."""
    stages: Annotated[list[str], DISTINCT] = Field(["faithfulness"], min_length=1)
    """faithfulness."""

    @model_validator(mode="after")
    def _no_workers(self) -> Self:
        if self.resources.workers is not None:
            raise ValueError("resources.workers: a forecaster's cells run as many at a time as there is room for")
        return self


class ScheduleSection(ConfigSection):
    """How much runs at a time, and for how long."""

    parallel: int | None = Field(None, ge=1)
    """Stages at a time; null is one on this machine and four on a cluster."""
    stage_hours: float = Field(6.0, gt=0)
    """Most hours of a stage; one that takes longer is stopped, and the others go on."""
    hours: float | None = Field(None, gt=0)
    """Most hours of a start of the night; what has not begun by then is skipped, what is running is stopped."""
    gpu_hours: float | None = Field(None, gt=0)
    """Most GPU hours of the night, counted by resources.gpus times resources.workers, the wait for a GPU included; when
    they are used up, stages that take GPUs are stopped, and no other begins. A forecaster counts as one worker."""


class RegressionThresholdsSection(ConfigSection):
    """From when on a change is a regression, which makes the audit exit 3.

    Where a figure has intervals, the change has to lie outside them, too.
    """

    level: float = Field(0.05, gt=0, lt=1)
    """Of the tests of layers, all models together: how often a night alerts on any by chance."""
    layer_shift: float = Field(0.02, ge=0)
    """Smallest change of a layer's AVSS, by its size, that matters however sure it is."""
    rank_correlation: float = Field(0.9, ge=-1, le=1)
    """Of a model's layers between two nights in which layers moved; less is told."""
    retention: float = Field(0.03, gt=0)
    """Loss of what the pruned model keeps of its tasks."""
    auroc: float = Field(0.03, gt=0)
    """Loss of how well flagged layers tell wrong answers."""
    hallucination_rate: float = Field(0.05, gt=0)
    """Growth of the share of wrong answers."""
    gain: float = Field(0.03, gt=0)
    """Loss of what mending gains, by the size of what is mended."""
    seed_spread: float = Field(0.5, gt=0)
    """Growth of the spread over seeds, by its size."""
    error: float = Field(0.05, gt=0)
    """Growth of a forecaster's error, by its size."""


class DestinationsSection(ConfigSection):
    """Where alerts go besides the run folder."""

    webhook: bool = False
    """Send the summary as JSON to the address in STRATOSCOPE_WEBHOOK_URL, with the token in STRATOSCOPE_WEBHOOK_TOKEN
    where there is one."""
    webhook_seconds: float = Field(10.0, gt=0)
    """How long an attempt waits for a connection, and for each part of an answer."""
    webhook_attempts: int = Field(4, ge=1)
    """Attempts, each after twice the pause of the one before."""
    mlflow: str | None = Field(None, pattern=r"^[^@]*$")
    """Tracking URI of an MLflow server or folder, without a password in it: MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD are for that; needs the package mlflow."""
    mlflow_experiment: str = "stratoscope"
    """Name of the experiment there."""


SMALL_MODEL: dict[str, Settings] = {
    "score": {"prompts": {"limit": 64}},
    "hallucination": {"pairs": {"limit": 40}},
}
SMALL_FORECASTER: dict[str, Settings] = {
    "faithfulness": {
        "grid": {"seeds": [2021, 2022], "levels": [0.0, 0.2], "perturbations": ["gaussian", "missing"]},
        "fit": {"epochs": 3, "faithful_epochs": 1},
    }
}


class AuditConfig(JobConfig):
    """Look into many models and forecasters, compare them with the nights before, and say what changed."""

    name: str = Field("nightly", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the audit: nights of one name are compared."""
    models: list[ModelEntry] = [ModelEntry(source="smollm2", overrides=SMALL_MODEL)]
    """Language models."""
    forecasters: list[ForecasterEntry] = [ForecasterEntry(forecaster="dlinear", overrides=SMALL_FORECASTER)]
    """Forecasters."""
    settings: dict[str, Settings] = {}
    """Settings of each stage, those of its job: {score: {prompts: {limit: 64}}}."""
    schedule: ScheduleSection = Field(ScheduleSection(), json_schema_extra=NOT_IN_IDENTITY)
    """How much runs at a time, and for how long."""
    thresholds: RegressionThresholdsSection = RegressionThresholdsSection()
    """From when on a change is a regression."""
    destinations: DestinationsSection = Field(DestinationsSection(), json_schema_extra=NOT_IN_IDENTITY)
    """Where alerts go besides the run folder."""
    reuse: bool = Field(True, json_schema_extra=NOT_IN_IDENTITY)
    """Take a stage's finished run of the same model, data, settings and code in its place."""

    @property
    def subjects(self) -> list[Subject]:
        """All that stages are run on, models first."""
        return [*self.models, *self.forecasters]

    @model_validator(mode="after")
    def _something_named_apart(self) -> Self:
        if not self.subjects:
            raise ValueError("models and forecasters are both empty; name at least one")
        slugs: dict[str, str] = {}
        for subject in self.subjects:
            if subject.slug in slugs:
                raise ValueError(
                    f"{subject.called!r} and {slugs[subject.slug]!r} would share the name {subject.slug!r}; "
                    "give one of them a name"
                )
            slugs[subject.slug] = subject.called
        return self
