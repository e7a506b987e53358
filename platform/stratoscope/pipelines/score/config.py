"""Fields of the scoring job."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from stratoscope.activations import Tap
from stratoscope.data import PromptSource, Quoting, check_encoding
from stratoscope.models import Encoding
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.validators import (
    DISTINCT,
    Count,
    CountOrZero,
    Draws,
    Fraction,
    Place,
    Positive,
    named,
)
from stratoscope.pipelines.sharded.config import ShardedConfig
from stratoscope.scoring import METRICS, ScoringSettings, VarianceKind, check_distinct


class PromptsSection(ConfigSection):
    """The prompts to run through the model."""

    source: Place = "sciq"
    """A known set (sciq, sst2, boolq, arc_easy, lambada, nq_open, triviaqa), a file, a folder, or a hub name."""
    template: str | None = None
    """Jinja template over a row's columns; null uses that of the set, or the column prompt, text or question."""
    split: str | None = None
    """Split of a hub set; null is train."""
    subset: str | None = None
    """Configuration of a hub set."""
    revision: str | None = None
    """Branch, tag or commit of a hub set."""
    encoding: Annotated[str | None, AfterValidator(check_encoding)] = None
    """Encoding of text files, such as cp1252; null detects UTF-8 and UTF-16, and refuses others."""
    quoting: Quoting = "auto"
    """Whether quotes enclose fields of CSV and TSV files; auto: always in CSV, and in TSV where that is evident."""
    group: str | None = None
    """Column that assigns prompts to groups, which are also scored separately."""
    limit: Count | None = 256
    """Maximum number of prompts, without empty and duplicate ones; null keeps all."""
    max_tokens: Count | None = None
    """Maximum tokens of a prompt; null is 1024, or the number of the model's positions if that is less."""
    too_long: Literal["truncate", "refuse"] = "truncate"
    """Treatment of longer prompts: truncate cuts them at the end, refuse records an error."""
    chat: bool = False
    """Wrap each prompt as a user message in the model's chat template."""
    bos: Literal["auto", "always", "never"] = "auto"
    """Begin-of-sequence token: auto follows the tokenizer, always adds one, never adds no special tokens at all."""

    def to_source(self) -> PromptSource:
        """Return the source of the prompts."""
        return PromptSource(
            self.source,
            self.template,
            self.split,
            self.subset,
            self.revision,
            self.group,
            self.encoding,
            self.quoting,
        )

    def to_encoding(self, max_tokens: int) -> Encoding:
        """Return the settings of the tokenizer, for prompts of at most `max_tokens`."""
        return Encoding(self.chat, self.bos, max_tokens, self.too_long)


class ActivationsSection(ConfigSection):
    """The activations to read."""

    taps: Annotated[list[Tap], DISTINCT] = Field([Tap.BLOCK, Tap.UPDATE], min_length=1)
    """Taps: the places in each block to read."""
    epsilons: Annotated[list[Positive], DISTINCT] = [0.01]
    """Absolute thresholds under which activations are counted exactly; any other snaps to the nearest bin edge."""
    spans: Annotated[list[Count], DISTINCT] = []
    """Lengths of the spans of layers whose angular distance is measured, at every start."""


class ScoresSection(ConfigSection):
    """The scores to compute from the statistics, without running the model again."""

    metrics: Annotated[list[str], DISTINCT, named(METRICS, "metric")] = Field(
        ["avss", "variance", "sparsity", "block_influence", "magnitude", "random", "last"], min_length=1
    )
    """Scores per layer: avss, variance, sparsity, block_influence, angular_distance, magnitude, random, last."""
    variance: Annotated[list[VarianceKind], DISTINCT] = Field(["elementwise"], min_length=1)
    """elementwise: over all activations; pooled: over the width of the token mean, as in the code of AVSS's authors."""
    epsilon: Annotated[list[Positive], DISTINCT] = [0.01]
    """Absolute sparsity thresholds."""
    quantile: Annotated[list[Fraction], DISTINCT] = []
    """Sparsity thresholds as quantiles of |activation| over all layers of a tap."""
    ratio: Fraction = 0.25
    """Share of layers that the summary and the report mark as the lowest."""
    bootstrap: Draws = Field(1000, ge=100)
    """Number of bootstrap draws over prompts for the intervals."""
    confidence: Fraction = 0.95
    """Coverage of the intervals."""
    splits: Draws = 20
    """Number of random halvings of the prompts for the split-half rank correlation."""

    @model_validator(mode="after")
    def _some_threshold(self) -> Self:
        if not self.epsilon and not self.quantile:
            raise ValueError("give at least one of epsilon and quantile")
        return self

    def to_settings(self, seed: int) -> ScoringSettings:
        """Return the settings of the scores."""
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
    """The statistics to store."""

    keep: Literal["prompt", "shard", "auto"] = "auto"
    """One row per prompt, layer and tap, or per shard of prompts; auto is per prompt up to max_rows."""
    max_rows: Count = 1_000_000
    """Maximum rows, of statistics and spans, up to which auto stores rows per prompt."""
    reservoir: CountOrZero = 1000
    """Number of prompts, first in the seeded order, with rows of their own if the others are merged by shard."""


class ScoreConfig(ShardedConfig):
    """Rank the layers of a language model by the statistics of their activations on prompts."""

    prompts: PromptsSection = PromptsSection()
    """The prompts to run through the model."""
    activations: ActivationsSection = ActivationsSection()
    """The activations to read."""
    scores: ScoresSection = ScoresSection()
    """The scores to compute from the statistics."""
    statistics: StatisticsSection = StatisticsSection()
    """The statistics to store."""

    @model_validator(mode="after")
    def _distinct_thresholds(self) -> Self:
        check_distinct(self.scores.epsilon, "scores.epsilon", self.activations.epsilons, "activations.epsilons")
        return self
