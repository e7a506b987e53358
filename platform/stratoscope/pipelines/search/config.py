"""The fields of the search job."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from ray.tune import Callback

from stratoscope.activations import Tap
from stratoscope.evaluation import ItemSampling, Resampling
from stratoscope.execution import mlflow_callback
from stratoscope.pipelines.runtime.config import NOT_IN_IDENTITY, ConfigSection, JobConfig
from stratoscope.pipelines.runtime.validators import DISTINCT, POSITIVE, SHARES, named
from stratoscope.pipelines.score.config import PromptsSection
from stratoscope.pipelines.search.eavss.config import DefinitionSearchSection
from stratoscope.pipelines.sharded.config import ActorsSection, ModelSection
from stratoscope.scoring import METRICS, VarianceKind

PERPLEXITY_DROP = "perplexity_drop"
"""Metric that is an evaluation: how perplexity rises when a layer is dropped alone."""
SEARCHED = (*METRICS, PERPLEXITY_DROP)
Objective = Literal["retention_raw", "retention_above_chance", "bits_per_byte"]


class SpaceSection(ConfigSection):
    """What the search chooses from. A metric takes what it needs of it."""

    metrics: Annotated[list[str], DISTINCT, named(SEARCHED, "metric")] = Field(
        ["avss", "variance", "block_influence", "random", "last"], min_length=1
    )
    """avss, variance, sparsity, block_influence, angular_distance, magnitude, random, last, perplexity_drop."""
    taps: Annotated[list[Tap], DISTINCT] = Field([Tap.BLOCK, Tap.UPDATE], min_length=1)
    """Where in each block: block, update, attention, mlp, mlp_hidden."""
    variance: Annotated[list[VarianceKind], DISTINCT] = Field(["elementwise"], min_length=1)
    """elementwise, pooled."""
    epsilons: Annotated[list[float], DISTINCT, POSITIVE] = [0.01, 0.1]
    """Absolute sparsity thresholds; a threshold between two bins of the histogram snaps to the nearest edge."""
    quantiles: Annotated[list[float], DISTINCT, SHARES] = []
    """Sparsity thresholds as quantiles of |activation| over all layers of a tap."""
    ratios: Annotated[list[float], DISTINCT, SHARES] = Field([0.1, 0.25, 0.4], min_length=1)
    """Shares of layers to drop."""
    contiguous: Annotated[list[bool], DISTINCT] = Field([False], min_length=1)
    """Whether the dropped layers are one span, the lowest by the sum of its scores, or any layers."""
    draws: int = Field(3, ge=1)
    """Different draws of the metric random."""

    @model_validator(mode="after")
    def _some_threshold(self) -> Self:
        needed = [name for name in self.metrics if name in METRICS and METRICS[name].uses_sparsity]
        if needed and not self.epsilons and not self.quantiles:
            raise ValueError(f"{needed[0]} needs a threshold: give epsilons or quantiles")
        return self


class TasksSection(ConfigSection):
    """What every candidate is evaluated on."""

    tasks: Annotated[list[str], DISTINCT] = Field(["sciq", "sst2", "passages"], min_length=1)
    """Shipped tasks, tasks or groups of lm-evaluation-harness, harness:NAME, or task YAML files."""
    limit: int = Field(64, ge=4)
    """Items of each task that the search sees."""
    held_out: int = Field(64, ge=4)
    """Items of each task that it never sees, for the final front. A small task is shared in the same proportions."""
    chat: bool = False
    """Ask in the model's chat template."""
    batch_tokens: int = Field(2048, ge=1)
    """Most tokens of a batch, padding included."""
    bootstrap: int = Field(1000, ge=100)
    """Draws of the paired bootstrap over items."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Coverage of the intervals."""

    def to_choice(self, seed: int) -> ItemSampling:
        """Return how many items to take for what."""
        return ItemSampling(self.limit, self.held_out, seed, self.chat)

    def to_resampling(self, seed: int) -> Resampling:
        """Return how intervals are made."""
        return Resampling(self.bootstrap, self.confidence, seed)


class SearchSection(ConfigSection):
    """How the space is searched."""

    algorithm: Literal["tpe", "nsga2", "grid", "greedy"] = "nsga2"
    """tpe: one objective, with ASHA; nsga2: retention against size; grid: every combination; greedy: layer by layer."""
    num_samples: int = Field(24, ge=1)
    """Trials of tpe and nsga2, the starting points among them. Equal sets of layers are evaluated once."""
    starting_points: bool = True
    """Begin with each metric's first choice at each ratio, so that the report can compare metrics."""
    objective: Objective = "retention_raw"
    """What is improved: a retention, averaged over tasks, or bits per byte of language-model text."""
    keep: float = Field(0.9, gt=0, le=1)
    """Where there are several ratios, tpe and the choice at the end want the largest that keeps this much."""
    rungs: list[float] = Field([0.25, 0.5, 1.0], min_length=1)
    """Rising shares of the items, the last 1: ASHA may stop a trial after some, greedy judges by the first."""
    swaps: int = Field(0, ge=0)
    """Swaps of a dropped layer for a kept one that are tried on the best set, in a seeded order."""
    concurrency: int | None = Field(None, ge=1)
    """Trials at once; null is one for each evaluator. At one the search is deterministic."""
    cache_gb: float = Field(2.0, ge=0, json_schema_extra=NOT_IN_IDENTITY)
    """Memory of an evaluator for hidden states that candidates start from."""

    @field_validator("rungs")
    @classmethod
    def _rising(cls, values: list[float]) -> list[float]:
        if values != sorted(set(values)) or values[0] <= 0 or values[-1] != 1:
            raise ValueError("rungs must rise from above 0 to 1")
        return values


class FinalSection(ConfigSection):
    """What is done with the front."""

    random_sets: int = Field(20, ge=0)
    """Random sets of the chosen size that the chosen one is compared with on held-out items."""
    export: bool = True
    """Write the chosen model as a checkpoint, load it in a fresh process, and measure its speed."""
    path: str | None = None
    """Folder for the checkpoint; null is models/ in the run."""


class EvaluatorsSection(ConfigSection):
    """The actors that evaluate; each holds the model once, for all trials."""

    max: int | None = Field(None, ge=1)
    """Most evaluators; null takes as many as the cluster holds."""
    cpus: int | None = Field(None, ge=1)
    """CPUs of each; null takes those of a node, or its share of them beside each GPU."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of each; null takes one where the cluster has any."""


class TrackingSection(ConfigSection):
    """Where trials are logged besides the run folder; TensorBoard's files are always in its tune/."""

    mlflow: str | None = None
    """Tracking URI of an MLflow server or folder; needs the package mlflow."""
    mlflow_experiment: str = "stratoscope"
    """Name of the experiment there."""

    def to_callbacks(self, run_id: str) -> list[Callback]:
        """Return the callbacks of Ray Tune that log the trials of a run."""
        return [mlflow_callback(self.mlflow, self.mlflow_experiment, run_id)] if self.mlflow else []


class SearchConfig(JobConfig):
    """Find layers that a language model can do without, prove it on held-out items, and export what is left."""

    target: Literal["pruning", "eavss"] = "pruning"
    """pruning: layers to drop; eavss: what flags hallucinating layers, from a hallucination run's statistics."""
    statistics: str | None = None
    """A finished score run, of target eavss a hallucination run: folder, URL or run_id; null makes the former."""
    model: ModelSection = ModelSection()
    """The model to prune."""
    prompts: PromptsSection = PromptsSection()
    """What statistics are computed from where none are given; items of tasks that are among them are left out."""
    space: SpaceSection = SpaceSection()
    """What the search chooses from."""
    evaluation: TasksSection = TasksSection()
    """What every candidate is evaluated on."""
    search: SearchSection = SearchSection()
    """How the space is searched."""
    final: FinalSection = FinalSection()
    """What is done with the front."""
    thresholds: DefinitionSearchSection = DefinitionSearchSection()
    """Of target eavss: what the search chooses from."""
    evaluators: EvaluatorsSection = Field(EvaluatorsSection(), json_schema_extra=NOT_IN_IDENTITY)
    """The actors that evaluate."""
    actors: ActorsSection = Field(ActorsSection(), json_schema_extra=NOT_IN_IDENTITY)
    """The actors that compute statistics where none are given."""
    tracking: TrackingSection = Field(TrackingSection(), json_schema_extra=NOT_IN_IDENTITY)
    """Where trials are logged besides."""

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        search, several = self.search, len(self.space.ratios) > 1
        if search.algorithm == "tpe" and several and search.objective == "bits_per_byte":
            raise ValueError("search.objective bits_per_byte with tpe needs a single ratio: nothing says what to keep")
        return self
