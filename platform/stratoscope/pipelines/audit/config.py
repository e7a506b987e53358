"""The configuration of the audit job."""

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stratoscope.pipelines.runtime.config import NOT_IN_IDENTITY, ConfigSection, JobConfig
from stratoscope.pipelines.runtime.validators import (
    DISTINCT,
    Cpus,
    Fraction,
    Gpus,
    Hours,
    NotNegative,
    Place,
    Positive,
    Seconds,
    Workers,
)

MAX_SLUG_LENGTH = 40
WEBHOOK_URL, WEBHOOK_TOKEN = "STRATOSCOPE_WEBHOOK_URL", "STRATOSCOPE_WEBHOOK_TOKEN"
SECRETS = (WEBHOOK_URL, WEBHOOK_TOKEN)
"""Environment variables that are hidden from stages."""
Settings = dict[str, Any]


class ResourcesSection(ConfigSection):
    """Resources of a subject's stages; null leaves the choice to each job."""

    cpus: Cpus | None = None
    """CPUs of each worker."""
    gpus: Gpus | None = None
    """GPUs of each worker."""
    workers: Workers | None = None
    """Maximum number of workers."""


class Subject(ConfigSection):
    """A model or forecaster that stages run on."""

    kind: ClassVar[Literal["model", "forecaster"]]
    """Kind of the subject."""
    source_field: ClassVar[str]
    """Name of the field that identifies the subject."""
    name: str | None = None
    """Name on the page; null takes the last part of the source."""
    stages: Annotated[list[str], DISTINCT]
    """Stages, in any order; a stage waits for the stages that it depends on."""
    overrides: dict[str, Settings] = {}
    """Settings by stage, which override those in `settings`."""
    resources: ResourcesSection = Field(ResourcesSection(), json_schema_extra=NOT_IN_IDENTITY)
    """Resources of the stages."""
    hours: Hours | None = Field(None, json_schema_extra=NOT_IN_IDENTITY)
    """Maximum hours of each stage; null is schedule.stage_hours."""

    @property
    def display_name(self) -> str:
        """Name of the subject in tables and on the page."""
        source: str = getattr(self, self.source_field)
        return self.name or source.rstrip("/").rsplit("/", 1)[-1]

    @property
    def slug(self) -> str:
        """Name of the subject as a part of run ids."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.display_name).strip("-.")[:MAX_SLUG_LENGTH] or "subject"


class ModelEntry(Subject):
    """A language model."""

    kind: ClassVar[Literal["model", "forecaster"]] = "model"
    source_field: ClassVar[str] = "source"
    source: Place
    """A hub name (owner/model), a folder, a .gguf file, or 'smollm2'."""
    revision: str | None = None
    """Branch, tag or commit of a hub name."""
    dtype: str | None = None
    """Number format; null leaves the choice to each job."""
    stages: Annotated[list[str], DISTINCT] = Field(["score", "hallucination"], min_length=1)
    """Stages: score, hallucination, search, mitigation."""


class ForecasterEntry(Subject):
    """A forecaster."""

    kind: ClassVar[Literal["model", "forecaster"]] = "forecaster"
    source_field: ClassVar[str] = "forecaster"
    forecaster: str
    """Forecaster: timesieve, dlinear, linear, last_value, patchtst, patchtsmixer, or one of an installed package."""
    stages: Annotated[list[str], DISTINCT] = Field(["faithfulness"], min_length=1)
    """Stages: faithfulness."""

    @model_validator(mode="after")
    def _no_workers(self) -> Self:
        if self.resources.workers is not None:
            raise ValueError("resources.workers: forecasters have no workers; cells run in parallel as resources allow")
        return self


class ScheduleSection(ConfigSection):
    """Parallel stages and time limits."""

    parallel: Workers | None = None
    """Number of parallel stages; null is one on this machine and four on a cluster."""
    stage_hours: Hours = 6.0
    """Maximum hours of a stage; a stage that takes longer is stopped, and the others continue."""
    hours: Hours | None = None
    """Maximum hours of each start of the night; then running stages are stopped and the others are skipped."""
    gpu_hours: Positive | None = None
    """Maximum GPU hours of the night, counted as resources.gpus times resources.workers, including the wait for a GPU.
    Once they are used up, stages that use GPUs are stopped, and no others start. A forecaster counts as one worker."""


class RegressionThresholdsSection(ConfigSection):
    """Regression thresholds. A loss above its threshold is a regression, and the audit exits with 3.

    Where a metric has intervals, the change must exceed them, too.
    """

    level: Fraction = 0.05
    """Significance level of the layer tests over all models: probability that a night raises any false alarm."""
    layer_shift: NotNegative = 0.02
    """Smallest relative change of a layer's AVSS that counts, however significant."""
    rank_correlation: float = Field(0.9, ge=-1, le=1)
    """Minimum rank correlation of a model's layers between two nights; checked where layers moved."""
    retention: Positive = 0.03
    """Maximum drop in the pruned model's retention."""
    auroc: Positive = 0.03
    """Maximum drop in AUROC of wrong against right answers."""
    hallucination_rate: Positive = 0.05
    """Maximum increase of the share of wrong answers."""
    gain: Positive = 0.03
    """Maximum drop in relative mitigation gain."""
    seed_spread: Positive = 0.5
    """Maximum relative increase of the spread over seeds."""
    error: Positive = 0.05
    """Maximum relative increase of a forecaster's error."""


class DestinationsSection(ConfigSection):
    """Destinations of alerts besides the run folder."""

    webhook: bool = False
    """Send the summary as JSON to the address in STRATOSCOPE_WEBHOOK_URL, with the token in STRATOSCOPE_WEBHOOK_TOKEN
    if it is set."""
    webhook_seconds: Seconds = 10.0
    """Timeout of each attempt in seconds, for the connection and for each part of the response."""
    webhook_attempts: int = Field(4, ge=1, le=100)
    """Number of attempts, with exponential backoff."""
    mlflow: str | None = Field(None, pattern=r"^[^@]*$")
    """Tracking URI of an MLflow server or folder; requires the package mlflow. Pass credentials in
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, not in the URI."""
    mlflow_experiment: str = "stratoscope"
    """Name of the MLflow experiment."""


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
    """Run stages over many models and forecasters, compare them with previous nights, and report changes."""

    name: str = Field("nightly", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the audit; nights of the same name are compared."""
    models: list[ModelEntry] = [ModelEntry(source="smollm2", overrides=SMALL_MODEL)]
    """Language models."""
    forecasters: list[ForecasterEntry] = [ForecasterEntry(forecaster="dlinear", overrides=SMALL_FORECASTER)]
    """Forecasters."""
    settings: dict[str, Settings] = {}
    """Settings of each stage's job: {score: {prompts: {limit: 64}}}."""
    schedule: ScheduleSection = Field(ScheduleSection(), json_schema_extra=NOT_IN_IDENTITY)
    """Parallel stages and time limits."""
    thresholds: RegressionThresholdsSection = RegressionThresholdsSection()
    """Regression thresholds."""
    destinations: DestinationsSection = Field(DestinationsSection(), json_schema_extra=NOT_IN_IDENTITY)
    """Destinations of alerts besides the run folder."""
    reuse: bool = Field(True, json_schema_extra=NOT_IN_IDENTITY)
    """Reuse a finished run of a stage with the same model, data, settings and code."""

    @property
    def subjects(self) -> list[Subject]:
        """All models and forecasters, models first."""
        return [*self.models, *self.forecasters]

    @model_validator(mode="after")
    def _check_subjects(self) -> Self:
        if not self.subjects:
            raise ValueError("models and forecasters are both empty; name at least one")
        slugs: dict[str, str] = {}
        for subject in self.subjects:
            if subject.slug in slugs:
                raise ValueError(
                    f"{subject.display_name!r} and {slugs[subject.slug]!r} would share the name {subject.slug!r}; "
                    "give one of them a name"
                )
            slugs[subject.slug] = subject.display_name
        return self
