"""The sections of the search with target pruning."""

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from stratoscope.activations import Tap
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.demand import Demand
from stratoscope.pipelines.runtime.validators import (
    DISTINCT,
    Count,
    CountOrAuto,
    Cpus,
    Draws,
    DrawsOrZero,
    Fraction,
    Gpus,
    Place,
    Positive,
    Workers,
    named,
)
from stratoscope.pipelines.sharded.config import worker_demand
from stratoscope.pruning import PERPLEXITY_DROP, PruningSpace
from stratoscope.scoring import METRICS, VarianceKind

if TYPE_CHECKING:
    from stratoscope.evaluation import ItemSampling, Resampling

SEARCH_METRICS = (*METRICS, PERPLEXITY_DROP)


class SpaceSection(ConfigSection):
    """The search space. Each metric uses the parameters that it needs."""

    metrics: Annotated[list[str], DISTINCT, named(SEARCH_METRICS, "metric")] = Field(
        ["avss", "variance", "block_influence", "random", "last"], min_length=1
    )
    """Layer metrics: avss, variance, sparsity, block_influence, angular_distance, magnitude, random, last,
    perplexity_drop."""
    taps: Annotated[list[Tap], DISTINCT] = Field([Tap.BLOCK, Tap.UPDATE], min_length=1)
    """Taps: the places in each block whose scores are candidates."""
    variance: Annotated[list[VarianceKind], DISTINCT] = Field(["elementwise"], min_length=1)
    """Kinds of variance: elementwise, pooled."""
    epsilons: Annotated[list[Positive], DISTINCT] = [0.01, 0.1]
    """Absolute sparsity thresholds; a threshold between two bins of the histogram snaps to the nearest edge."""
    quantiles: Annotated[list[Fraction], DISTINCT] = []
    """Sparsity thresholds as quantiles of |activation| over all layers of a tap."""
    ratios: Annotated[list[Fraction], DISTINCT] = Field([0.1, 0.25, 0.4], min_length=1)
    """Shares of layers to drop."""
    contiguous: Annotated[list[bool], DISTINCT] = Field([False], min_length=1)
    """Whether the dropped layers form one span, the one with the lowest sum of scores."""
    draws: Draws = 3
    """Number of draws of the metric random."""

    @model_validator(mode="after")
    def _check_thresholds(self) -> Self:
        sparse = [name for name in self.metrics if name in METRICS and METRICS[name].uses_sparsity]
        if sparse and not self.epsilons and not self.quantiles:
            raise ValueError(f"{sparse[0]} needs a threshold: give epsilons or quantiles")
        return self

    def to_space(self) -> PruningSpace:
        """Return the space as plain values."""
        return PruningSpace(
            metrics=tuple(self.metrics),
            taps=tuple(str(tap) for tap in self.taps),
            ratios=tuple(self.ratios),
            variances=tuple(self.variance),
            epsilons=tuple(self.epsilons),
            quantiles=tuple(self.quantiles),
            contiguous=tuple(self.contiguous),
            draws=self.draws,
        )


class TasksSection(ConfigSection):
    """The tasks that every candidate is evaluated on."""

    tasks: Annotated[list[Place], DISTINCT] = Field(["sciq", "sst2", "passages"], min_length=1)
    """Bundled tasks, tasks or groups of lm-evaluation-harness, harness:NAME, or task YAML files."""
    filters: Annotated[list[str], DISTINCT] = []
    """Filters that count where a task has several, such as flexible-extract: of these the first that the task has, else
    the task's own first. Each filter is a metric in the tables."""
    limit: Count = Field(64, ge=4)
    """Items of each task that candidates are evaluated on during the search."""
    held_out: Count = Field(64, ge=4)
    """Items of each task that only the final front is evaluated on. A small task is split in the same proportions."""
    chat: bool = False
    """Apply the model's chat template."""
    batch_tokens: CountOrAuto = "auto"
    """Maximum tokens of a batch, padding included; auto is 2048 on a CPU and is measured on a GPU, once in a run."""
    bootstrap: Draws = Field(1000, ge=100)
    """Draws of the paired bootstrap over items."""
    confidence: Fraction = 0.95
    """Coverage of the intervals."""

    def to_sampling(self, seed: int) -> "ItemSampling":
        """Return how many items are used for what."""
        from stratoscope.evaluation import ItemSampling

        return ItemSampling(self.limit, self.held_out, seed, self.chat, tuple(self.filters))

    def to_resampling(self, seed: int) -> "Resampling":
        """Return the settings of the bootstrap."""
        from stratoscope.evaluation import Resampling

        return Resampling(self.bootstrap, self.confidence, seed)


class FinalSection(ConfigSection):
    """What happens to the front after the search."""

    random_sets: DrawsOrZero = 20
    """Random sets of the same size that the chosen set is compared with on held-out items."""
    export: bool = True
    """Write the chosen model as a checkpoint, load it in a fresh process, and measure its speed."""
    path: Place | None = None
    """Folder for the checkpoint; null is models/ in the run."""


class EvaluatorsSection(ConfigSection):
    """The actors that evaluate candidates; each holds the model once, for all trials."""

    max: Workers | None = None
    """Maximum number of evaluators; null uses as many as fit into the cluster."""
    cpus: Cpus | None = None
    """CPUs per evaluator; null is all CPUs of a node, or its share of them per GPU."""
    gpus: Gpus | None = None
    """GPUs per evaluator; null is one where the cluster has any."""

    def demand(self, name: str) -> Demand:
        """Return one evaluator and its resources."""
        return worker_demand(name, self.cpus, self.gpus)
