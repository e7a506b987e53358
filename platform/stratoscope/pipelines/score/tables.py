"""The scoring job's tables: their columns, and statistics to rows and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.activations import Tap
from stratoscope.scoring import Scoring, SpanAngle
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import NUM_BINS

HISTOGRAM_TYPE = pa.struct([("first", pa.int16()), ("counts", pa.list_(pa.int64()))])
"""Bins from the first to the last that is not empty; the meaning of a bin is in statistics/histogram.py."""

PROMPT_STATS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("group", pa.string()),
        ("layer", pa.int32()),
        ("tap", pa.string()),
        ("tokens", pa.int64()),
        ("count", pa.int64()),
        ("mean", pa.float64()),
        ("m2", pa.float64()),
        ("pooled_variance", pa.float64()),
        ("log2_hist", HISTOGRAM_TYPE),
        ("below", pa.list_(pa.int64())),
        ("cosine", pa.float64()),
        ("nonfinite", pa.int64()),
    ]
)
SHARD_STATS = pa.schema(
    [
        ("shard", pa.int64()),
        ("group", pa.string()),
        ("layer", pa.int32()),
        ("tap", pa.string()),
        ("prompts", pa.int64()),
        *(field for field in PROMPT_STATS if field.name not in ("prompt_id", "group", "layer", "tap")),
        ("cosine_tokens", pa.int64()),
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
EPSILONS_KEY = b"epsilons"
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
    return _stats_table(statistics, units, taps, PROMPT_STATS)


def shard_stats(statistics: Statistics, shard: int, groups: Sequence[str | None], taps: Sequence[Tap]) -> pa.Table:
    """Return one row per group, layer and tap.

    Args:
        statistics: of a shard's prompts, merged by group, shape (groups, layers, taps).
        shard: its number.
        groups: names, None for all prompts.
        taps: in order of the statistics' last axis.
    """
    units = {"shard": np.full(len(groups), shard), "group": np.asarray(groups, object)}
    return _stats_table(statistics, units, taps, SHARD_STATS)


def _stats_table(
    statistics: Statistics, units: dict[str, NDArray[Any]], taps: Sequence[Tap], schema: pa.Schema
) -> pa.Table:
    num_units, num_layers, num_taps = statistics.shape
    per_unit = num_layers * num_taps
    columns: dict[str, Any] = {name: np.repeat(values, per_unit) for name, values in units.items()} | {
        "layer": np.tile(np.repeat(np.arange(num_layers), num_taps), num_units),
        "tap": np.tile(np.asarray([str(tap) for tap in taps], object), num_units * num_layers),
        "log2_hist": pack_histograms(statistics.histogram.reshape(-1, NUM_BINS)),
        "below": _lists(statistics.below.reshape(num_units * per_unit, -1)),
    }
    for name in schema.names:
        if name not in columns:
            columns[name] = getattr(statistics, name).reshape(-1)
    arrays = [_array(columns[field.name], field.type) for field in schema]
    described = schema.with_metadata({EPSILONS_KEY: repr(list(statistics.epsilons)).encode()})
    return pa.Table.from_arrays(arrays, schema=described)


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
    return pa.Table.from_arrays([_array(columns[f.name], f.type) for f in SPAN_STATS], schema=SPAN_STATS)


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
    return pa.Table.from_arrays([_array(columns[f.name], f.type) for f in SHARD_SPANS], schema=SHARD_SPANS)


def statistics_of_tap(table: pa.Table, tap: str, epsilons: tuple[float, ...]) -> tuple[Statistics, pa.Table]:
    """Return the statistics of one tap as arrays of shape (units, layers), and the first row of each unit.

    Args:
        table: `prompt_stats`, or `shard_stats` of one group; the rows of a unit together and in order of layers.
        tap: which tap.
        epsilons: the thresholds that `below` counts.
    """
    rows = table.filter(pc.equal(table["tap"], tap)).combine_chunks()
    num_layers = pc.max(rows["layer"]).as_py() + 1
    shape = (rows.num_rows // num_layers, num_layers)

    def column(name: str) -> NDArray[Any]:
        values: NDArray[Any] = rows[name].to_numpy(zero_copy_only=False).reshape(shape)
        return values

    merged = "prompts" in rows.column_names
    below = np.asarray(rows["below"].combine_chunks().flatten()).reshape(*shape, len(epsilons))
    statistics = Statistics(
        epsilons=epsilons,
        prompts=column("prompts") if merged else (~np.isnan(column("pooled_variance"))).astype(np.int64),
        tokens=column("tokens"),
        count=column("count"),
        mean=column("mean"),
        m2=column("m2"),
        pooled_variance=column("pooled_variance"),
        histogram=unpack_histograms(rows["log2_hist"]).reshape(*shape, NUM_BINS),
        below=below,
        cosine=column("cosine"),
        cosine_tokens=column("cosine_tokens") if merged else np.where(np.isnan(column("cosine")), 0, column("tokens")),
        nonfinite=column("nonfinite"),
    )
    return statistics, rows.take(np.arange(0, rows.num_rows, num_layers))


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


def pack_histograms(histograms: NDArray[np.int64]) -> pa.StructArray:
    """Store histograms, shape (rows, NUM_BINS), from their first to their last bin that is not empty."""
    filled = histograms > 0
    first = filled.argmax(axis=1)
    last = np.where(filled.any(axis=1), NUM_BINS - filled[:, ::-1].argmax(axis=1), first)
    bins = np.arange(NUM_BINS)
    kept = (bins >= first[:, None]) & (bins < last[:, None])
    offsets = np.concatenate([[0], np.cumsum(last - first)]).astype(np.int32)
    counts = pa.ListArray.from_arrays(pa.array(offsets), pa.array(histograms[kept]))
    return pa.StructArray.from_arrays([pa.array(first.astype(np.int16)), counts], fields=list(HISTOGRAM_TYPE))


def unpack_histograms(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return stored histograms as an array of shape (rows, NUM_BINS)."""
    packed = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    first = packed.field("first").to_numpy(zero_copy_only=False).astype(np.int64)
    counts = packed.field("counts")
    lengths = pc.list_value_length(counts).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    rows = np.repeat(np.arange(len(first)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    histograms = np.zeros((len(first), NUM_BINS), np.int64)
    histograms[rows, first[rows] + within] = counts.flatten().to_numpy(zero_copy_only=False)
    return histograms


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


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    """Return a column; NaN becomes null."""
    return values if isinstance(values, pa.Array) else pa.array(values, kind, from_pandas=True)


def _lists(matrix: NDArray[np.int64]) -> pa.ListArray:
    rows, width = matrix.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * width), pa.array(matrix.ravel()))
