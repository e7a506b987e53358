"""The fields of the scoring job."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stratoscope.activations import Tap
from stratoscope.data import PromptSource
from stratoscope.models import Encoding
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.validators import DISTINCT, POSITIVE, SHARES, named
from stratoscope.pipelines.sharded.config import ShardedConfig
from stratoscope.scoring import METRICS, ScoringSettings, VarianceKind


class PromptsSection(ConfigSection):
    """The prompts to run through it."""

    source: str = "sciq"
    """A known set (sciq, sst2, boolq, arc_easy, lambada, nq_open, triviaqa), a file, a folder, or a hub name"""
    template: str | None = None
    """Jinja template over a row's columns; null takes the set's own, or the column prompt, text or question."""
    split: str | None = None
    """Split of a hub set; null is train."""
    subset: str | None = None
    """Configuration of a hub set."""
    revision: str | None = None
    """Branch, tag or commit of a hub set."""
    group: str | None = None
    """Column that puts prompts into groups which are scored apart as well."""
    limit: int | None = Field(256, ge=1)
    """Prompts kept, after empty and duplicate ones are gone; null keeps all."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest prompt, in tokens; null is 1024, or the model's positions where these are fewer."""
    too_long: Literal["truncate", "refuse"] = "truncate"
    """What happens to a longer one: cut at the end, or put among the errors."""
    chat: bool = False
    """Wrap each prompt as a user's message in the model's chat template."""
    bos: Literal["auto", "always", "never"] = "auto"
    """Begin-of-sequence token: as the tokenizer does, always, or no special tokens at all."""

    def to_source(self) -> PromptSource:
        """Return where the prompts come from."""
        return PromptSource(self.source, self.template, self.split, self.subset, self.revision, self.group)

    def to_encoding(self, max_tokens: int) -> Encoding:
        """Return how prompts become tokens, given the longest prompt."""
        return Encoding(self.chat, self.bos, max_tokens, self.too_long)


class ActivationsSection(ConfigSection):
    """What is read of the activations."""

    taps: Annotated[list[Tap], DISTINCT] = Field([Tap.BLOCK, Tap.UPDATE], min_length=1)
    """Where in each block to read: block, update, attention, mlp, mlp_hidden."""
    epsilons: Annotated[list[float], DISTINCT, POSITIVE] = [0.01]
    """Absolute thresholds under which activations are counted exactly; any other is counted to the nearest bin edge."""
    spans: Annotated[list[int], DISTINCT, POSITIVE] = []
    """Lengths of the spans of layers whose angular distance is measured, for every start."""


class ScoresSection(ConfigSection):
    """What is computed from the statistics; none of it runs the model again."""

    metrics: Annotated[list[str], named(METRICS, "metric")] = [
        "avss",
        "variance",
        "sparsity",
        "block_influence",
        "magnitude",
        "random",
        "last",
    ]
    """Scores per layer: avss, variance, sparsity, block_influence, angular_distance, magnitude, random, last."""
    variance: list[VarianceKind] = Field(["elementwise"], min_length=1)
    """elementwise: over all activations; pooled: over the width of the token mean, as the AVSS authors' code has it."""
    epsilon: Annotated[list[float], POSITIVE] = [0.01]
    """Absolute sparsity thresholds."""
    quantile: Annotated[list[float], SHARES] = []
    """Sparsity thresholds as quantiles of |activation| over all layers of a tap."""
    ratio: float = Field(0.25, gt=0, lt=1)
    """Share of layers that the tables and the report call the lowest."""
    bootstrap: int = Field(1000, ge=100)
    """Bootstrap draws over prompts for the intervals."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Coverage of the intervals."""
    splits: int = Field(20, ge=1)
    """Random halvings of the prompts for the split-half rank correlation."""

    @model_validator(mode="after")
    def _some_threshold(self) -> Self:
        if not self.epsilon and not self.quantile:
            raise ValueError("give at least one of epsilon and quantile")
        return self

    def to_choices(self, seed: int) -> ScoringSettings:
        """Return which scores to compute."""
        thresholds = [("absolute", e) for e in self.epsilon] + [("quantile", q) for q in self.quantile]
        return ScoringSettings(
            metrics=tuple(self.metrics),
            variances=tuple(self.variance),
            epsilons=tuple(thresholds),  # type: ignore[arg-type]
            draws=self.bootstrap,
            splits=self.splits,
            confidence=self.confidence,
            seed=seed,
        )


class StatisticsSection(ConfigSection):
    """What is kept of the statistics."""

    keep: Literal["prompt", "shard", "auto"] = "auto"
    """A row per prompt, layer and tap, or per shard of prompts; auto is per prompt up to max_rows."""
    max_rows: int = Field(1_000_000, ge=1)
    """Most rows, of statistics and spans, that auto keeps per prompt."""
    reservoir: int = Field(1000, ge=0)
    """Prompts whose own rows are kept where the others are merged by shard: the first of the seeded order."""


class ScoreConfig(ShardedConfig):
    """Rank the layers of a language model by the statistics of their activations on prompts."""

    prompts: PromptsSection = PromptsSection()
    """The prompts to run through it."""
    activations: ActivationsSection = ActivationsSection()
    """What is read of the activations."""
    scores: ScoresSection = ScoresSection()
    """What is computed from the statistics."""
    statistics: StatisticsSection = StatisticsSection()
    """What is kept of the statistics."""
