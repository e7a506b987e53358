"""Tables of the scoring job: their row types, and the tables that are built from arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stratoscope.activations import Tap
from stratoscope.results import Int32, TableRow
from stratoscope.scoring import Scoring, SpanAngle, cosine_to_angle
from stratoscope.statistics import Statistics
from stratoscope.tables.activations import StatisticsColumns, statistics_table

ALL = "all"
"""Group of all prompts, in `layer_scores` and `stability`."""

# The columns of a row type are those of its bases, from the last base to the first, and then its own.


@dataclass(frozen=True)
class PromptColumns(TableRow):
    """Columns that name a prompt, a layer and a tap."""

    prompt_id: str
    """Id of the prompt."""
    group: str
    """Group of the prompt."""
    layer: Int32
    """Layer, numbered from 0."""
    tap: str
    """Tap: the place in the block that was read."""


@dataclass(frozen=True)
class PromptStatsRow(StatisticsColumns, PromptColumns):
    """Statistics of one prompt at one layer and tap."""


@dataclass(frozen=True)
class ShardColumns(TableRow):
    """Columns that name a shard, a group, a layer and a tap."""

    shard: int
    """Number of the shard."""
    group: str | None
    """Group of the prompts; null for all prompts of the shard."""
    layer: Int32
    """Layer, numbered from 0."""
    tap: str
    """Tap: the place in the block that was read."""
    prompts: int
    """Number of prompts that are merged."""


@dataclass(frozen=True)
class ShardStatsRow(StatisticsColumns, ShardColumns):
    """Merged statistics of a shard's prompts at one layer and tap."""

    cosine_tokens: int
    """Number of tokens that the cosine is averaged over."""


@dataclass(frozen=True)
class SpanStatsRow(TableRow):
    """Change of the residual stream over a span of layers, for one prompt."""

    prompt_id: str
    """Id of the prompt."""
    start: Int32
    """First layer of the span."""
    length: Int32
    """Number of layers in the span."""
    cosine: float | None
    """Cosine of the last token's state before and after the span."""
    angle: float | None
    """Angular distance arccos(cosine) / pi."""


@dataclass(frozen=True)
class ShardSpanRow(TableRow):
    """Change of the residual stream over a span of layers, averaged over prompts of a shard."""

    shard: int
    """Number of the shard."""
    group: str | None
    """Group of the prompts; null for all prompts of the shard."""
    start: Int32
    """First layer of the span."""
    length: Int32
    """Number of layers in the span."""
    prompts: int
    """Number of prompts with a cosine."""
    cosine: float | None
    """Mean cosine of the last token's state before and after the span."""
    angle: float | None
    """Mean angular distance."""


@dataclass(frozen=True)
class ScoreErrorRow(TableRow):
    """A prompt that could not be scored."""

    prompt_id: str
    """Id of the prompt."""
    error: str
    """Error message."""


@dataclass(frozen=True)
class LayerRow(TableRow):
    """A layer of the model."""

    layer: Int32
    """Layer, numbered from 0."""
    num_parameters: int
    """Number of parameters."""
    weight_norm: float | None
    """Frobenius norm of the weights; null where they are stored as integers or 8-bit floats."""


@dataclass(frozen=True)
class LayerColumn(TableRow):
    """Column that names a layer."""

    layer: Int32
    """Layer, numbered from 0."""


@dataclass(frozen=True)
class ScoringColumns(TableRow):
    """Columns that name a scoring."""

    tap: str | None
    """Tap; null where the metric has none."""
    metric: str
    """Metric, such as avss."""
    variance: str | None
    """Kind of variance, elementwise or pooled; null where the metric uses none."""
    epsilon_kind: str | None
    """Kind of the sparsity threshold, absolute or quantile; null where the metric uses none."""
    epsilon: float | None
    """Sparsity threshold as applied."""
    group: str
    """Group of prompts; all is all of them."""

    @property
    def scoring(self) -> tuple[str | float | None, ...]:
        """Key that a layer's score shares with the stability of its scoring."""
        return (self.tap, self.metric, self.variance, self.epsilon_kind, self.epsilon, self.group)


@dataclass(frozen=True)
class LayerScoreRow(ScoringColumns, LayerColumn):
    """Score of one layer."""

    score: float | None
    """Score."""
    normalized: float | None
    """Share of the sum of all layers' scores."""
    cumulative: float | None
    """Sum of the shares of this layer and of all that rank below it."""
    rank: int
    """Rank; 0 is the least important layer."""
    ci_low: float | None
    """Lower end of the bootstrap interval; null where the metric does not depend on prompts."""
    ci_high: float | None
    """Upper end of the bootstrap interval."""


@dataclass(frozen=True)
class StabilityRow(ScoringColumns):
    """Stability of one scoring."""

    split_half: float | None
    """Rank correlation of the scores of two random halves of the prompts, averaged over splits."""


TABLES: dict[str, type[TableRow]] = {
    "prompt_stats": PromptStatsRow,
    "shard_stats": ShardStatsRow,
    "span_stats": SpanStatsRow,
    "shard_spans": ShardSpanRow,
    "layers": LayerRow,
    "layer_scores": LayerScoreRow,
    "stability": StabilityRow,
    "errors": ScoreErrorRow,
}


def prompt_stats(
    statistics: Statistics, prompt_ids: Sequence[str], groups: Sequence[str], taps: Sequence[Tap]
) -> pa.Table:
    """Return the table `prompt_stats`.

    Args:
        statistics: statistics of shape (prompts, layers, taps).
        prompt_ids: one per prompt.
        groups: one per prompt.
        taps: taps in order of the statistics' last axis.
    """
    units = {"prompt_id": np.asarray(prompt_ids, object), "group": np.asarray(groups, object)}
    return statistics_table(PromptStatsRow, statistics, units, taps)


def shard_stats(statistics: Statistics, shard: int, groups: Sequence[str | None], taps: Sequence[Tap]) -> pa.Table:
    """Return the table `shard_stats` of one shard.

    Args:
        statistics: statistics of the shard's prompts, merged by group, shape (groups, layers, taps).
        shard: number of the shard.
        groups: names of the groups, None for all prompts.
        taps: taps in order of the statistics' last axis.
    """
    units = {"shard": np.full(len(groups), shard), "group": np.asarray(groups, object)}
    return statistics_table(ShardStatsRow, statistics, units, taps)


def span_stats(cosine: NDArray[np.float64], prompt_ids: Sequence[str], spans: Sequence[tuple[int, int]]) -> pa.Table:
    """Return the table `span_stats`.

    Args:
        cosine: cosine of the last token's state before and after each span, shape (prompts, spans).
        prompt_ids: one per prompt.
        spans: (start, length) of each span.
    """
    units = {"prompt_id": np.asarray(prompt_ids, object)}
    flat = cosine.ravel()
    return SpanStatsRow.column_table(_span_columns(units, spans) | {"cosine": flat, "angle": cosine_to_angle(flat)})


def shard_spans(
    sums: NDArray[np.float64], shard: int, groups: Sequence[str | None], spans: Sequence[tuple[int, int]]
) -> pa.Table:
    """Return the table `shard_spans` of one shard.

    Args:
        sums: number of prompts with a cosine, sum of the cosines and sum of the angles, shape (3, groups, spans).
        shard: number of the shard.
        groups: names of the groups, None for all prompts.
        spans: (start, length) of each span.
    """
    units = {"shard": np.full(len(groups), shard), "group": np.asarray(groups, object)}
    prompts, cosine, angle = sums.reshape(3, -1)
    with np.errstate(invalid="ignore"):
        means = {"prompts": prompts.astype(np.int64), "cosine": cosine / prompts, "angle": angle / prompts}
    return ShardSpanRow.column_table(_span_columns(units, spans) | means)


def _span_columns(units: dict[str, NDArray[Any]], spans: Sequence[tuple[int, int]]) -> dict[str, NDArray[Any]]:
    starts, lengths = np.asarray(spans).T
    num_units = len(next(iter(units.values())))
    repeated = {name: np.repeat(values, len(spans)) for name, values in units.items()}
    return repeated | {"start": np.tile(starts, num_units), "length": np.tile(lengths, num_units)}


def angles_by_span(table: pa.Table) -> dict[tuple[int, int], SpanAngle]:
    """Return the angles by (start, length) of each span, in order of units.

    Args:
        table: `span_stats`, or `shard_spans` of one group; the rows of a unit are contiguous.
    """
    pairs = list(zip(table["start"].to_pylist(), table["length"].to_pylist(), strict=True))
    spans = list(dict.fromkeys(pairs))
    angles = table["angle"].to_numpy(zero_copy_only=False).reshape(-1, len(spans))
    counted = table["prompts"].to_numpy() if "prompts" in table.column_names else (~np.isnan(angles)).astype(np.int64)
    prompts = counted.reshape(angles.shape)
    return {span: SpanAngle(angles[:, column], prompts[:, column]) for column, span in enumerate(spans)}


def layer_score_rows(scoring: Scoring, group: str) -> Iterator[LayerScoreRow]:
    """Yield the rows of a scoring, in order of layers."""
    ranking = scoring.ranking
    for layer in range(len(scoring.scores)):
        yield LayerScoreRow(
            **_scoring_columns(scoring, group),
            layer=layer,
            score=scoring.scores[layer],
            normalized=ranking.normalized[layer],
            cumulative=ranking.cumulative[layer],
            rank=ranking.rank[layer],
            ci_low=scoring.low[layer],
            ci_high=scoring.high[layer],
        )


def stability_row(scoring: Scoring, group: str) -> StabilityRow:
    """Return the stability of a scoring."""
    return StabilityRow(**_scoring_columns(scoring, group), split_half=scoring.split_half)


def _scoring_columns(scoring: Scoring, group: str) -> dict[str, Any]:
    names = ("tap", "metric", "variance", "epsilon_kind", "epsilon")
    return {name: getattr(scoring, name) for name in names} | {"group": group}
