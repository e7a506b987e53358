"""The scoring job's tables: their columns, and results to rows and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stratoscope.activations import Tap
from stratoscope.pipelines.sharded.rows import STATISTICS, array, stats_table
from stratoscope.scoring import Scoring, SpanAngle
from stratoscope.statistics import Statistics

PROMPT_STATS = pa.schema(
    [
        pa.field("prompt_id", pa.string()),
        pa.field("group", pa.string()),
        *STATISTICS,
    ]
)
SHARD_STATS = pa.schema(
    [
        pa.field("shard", pa.int64()),
        pa.field("group", pa.string()),
        *STATISTICS[:2],
        pa.field("prompts", pa.int64()),
        *STATISTICS[2:],
        pa.field("cosine_tokens", pa.int64()),
    ]
)
"""The prompts of a shard merged; the group is null where it is all of them."""
SPAN_STATS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("start", pa.int32()),
        ("length", pa.int32()),
        ("cosine", pa.float64()),
        ("angle", pa.float64()),
    ]
)
SHARD_SPANS = pa.schema(
    [
        ("shard", pa.int64()),
        ("group", pa.string()),
        ("start", pa.int32()),
        ("length", pa.int32()),
        ("prompts", pa.int64()),
        ("cosine", pa.float64()),
        ("angle", pa.float64()),
    ]
)
"""Means over the prompts of a shard that have one; the group is null where it is all of them."""
ERRORS = pa.schema([("prompt_id", pa.string()), ("error", pa.string())])
LAYERS = pa.schema([("layer", pa.int32()), ("num_parameters", pa.int64()), ("weight_norm", pa.float64())])
LAYER_SCORES = pa.schema(
    [
        ("layer", pa.int32()),
        ("tap", pa.string()),
        ("metric", pa.string()),
        ("variance", pa.string()),
        ("epsilon_kind", pa.string()),
        ("epsilon", pa.float64()),
        ("group", pa.string()),
        ("score", pa.float64()),
        ("normalized", pa.float64()),
        ("cumulative", pa.float64()),
        ("rank", pa.int64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
    ]
)
STABILITY = pa.schema(
    [
        ("tap", pa.string()),
        ("metric", pa.string()),
        ("variance", pa.string()),
        ("epsilon_kind", pa.string()),
        ("epsilon", pa.float64()),
        ("group", pa.string()),
        ("split_half", pa.float64()),
    ]
)
ALL = "all"
"""The group of all prompts, in `layer_scores` and `stability`."""


def prompt_stats(
    statistics: Statistics, prompt_ids: Sequence[str], groups: Sequence[str], taps: Sequence[Tap]
) -> pa.Table:
    """Return one row per prompt, layer and tap.

    Args:
        statistics: shape (prompts, layers, taps).
        prompt_ids: one per prompt.
        groups: one per prompt.
        taps: in order of the statistics' last axis.
    """
    units = {"prompt_id": np.asarray(prompt_ids, object), "group": np.asarray(groups, object)}
    return stats_table(statistics, units, taps, PROMPT_STATS)


def shard_stats(statistics: Statistics, shard: int, groups: Sequence[str | None], taps: Sequence[Tap]) -> pa.Table:
    """Return one row per group, layer and tap.

    Args:
        statistics: of a shard's prompts, merged by group, shape (groups, layers, taps).
        shard: its number.
        groups: names, None for all prompts.
        taps: in order of the statistics' last axis.
    """
    units = {"shard": np.full(len(groups), shard), "group": np.asarray(groups, object)}
    return stats_table(statistics, units, taps, SHARD_STATS)


def angle_of(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return arccos(cosine) / pi, the angular distance of arXiv 2403.17887."""
    angle: NDArray[np.float64] = np.arccos(np.clip(cosine, -1, 1)) / np.pi
    return angle


def span_stats(cosine: NDArray[np.float64], prompt_ids: Sequence[str], spans: Sequence[tuple[int, int]]) -> pa.Table:
    """Return one row per prompt and span of layers.

    Args:
        cosine: of the last token before and behind each span, shape (prompts, spans).
        prompt_ids: one per prompt.
        spans: (start, length) of each span.
    """
    starts, lengths = np.asarray(spans).T
    flat = cosine.ravel()
    columns = {
        "prompt_id": np.repeat(np.asarray(prompt_ids, object), len(spans)),
        "start": np.tile(starts, len(prompt_ids)),
        "length": np.tile(lengths, len(prompt_ids)),
        "cosine": flat,
        "angle": angle_of(flat),
    }
    return pa.Table.from_arrays([array(columns[f.name], f.type) for f in SPAN_STATS], schema=SPAN_STATS)


def shard_spans(
    sums: NDArray[np.float64], shard: int, groups: Sequence[str | None], spans: Sequence[tuple[int, int]]
) -> pa.Table:
    """Return one row per group and span of layers.

    Args:
        sums: number of prompts with a cosine, sum of the cosines and sum of the angles, shape (3, groups, spans).
        shard: its number.
        groups: names, None for all prompts.
        spans: (start, length) of each span.
    """
    starts, lengths = np.asarray(spans).T
    prompts = sums[0].ravel()
    with np.errstate(invalid="ignore"):
        columns = {
            "shard": np.full(len(groups) * len(spans), shard),
            "group": np.repeat(np.asarray(groups, object), len(spans)),
            "start": np.tile(starts, len(groups)),
            "length": np.tile(lengths, len(groups)),
            "prompts": prompts.astype(np.int64),
            "cosine": sums[1].ravel() / prompts,
            "angle": sums[2].ravel() / prompts,
        }
    return pa.Table.from_arrays([array(columns[f.name], f.type) for f in SHARD_SPANS], schema=SHARD_SPANS)


def angles_by_span(table: pa.Table) -> dict[tuple[int, int], SpanAngle]:
    """Return the angles by (start, length) of each span, in order of units.

    Args:
        table: `span_stats`, or `shard_spans` of one group; the rows of a unit together.
    """
    pairs = list(zip(table["start"].to_pylist(), table["length"].to_pylist(), strict=True))
    spans = list(dict.fromkeys(pairs))
    angles = table["angle"].to_numpy(zero_copy_only=False).reshape(-1, len(spans))
    counted = table["prompts"].to_numpy() if "prompts" in table.column_names else (~np.isnan(angles)).astype(np.int64)
    prompts = counted.reshape(angles.shape)
    return {span: SpanAngle(angles[:, column], prompts[:, column]) for column, span in enumerate(spans)}


def score_rows(scoring: Scoring, group: str) -> list[tuple[object, ...]]:
    """Return a scoring's rows of `layer_scores`, in order of layers."""
    head = (scoring.tap, scoring.metric, scoring.variance, scoring.epsilon_kind, scoring.epsilon, group)
    columns = (
        scoring.scores,
        scoring.ranking.normalized,
        scoring.ranking.cumulative,
        scoring.ranking.rank,
        scoring.low,
        scoring.high,
    )
    return [(layer, *head, *(_null(c[layer]) for c in columns)) for layer in range(len(scoring.scores))]


def stability_row(scoring: Scoring, group: str) -> tuple[object, ...]:
    """Return a scoring's row of `stability`."""
    s = scoring
    return (s.tap, s.metric, s.variance, s.epsilon_kind, s.epsilon, group, _null(s.split_half))


def _null(value: Any) -> Any:
    return None if np.isnan(value) else value.item() if isinstance(value, np.generic) else value
