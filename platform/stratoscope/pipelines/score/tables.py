"""The scoring job's tables: their columns, and statistics to rows and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.activations import Tap
from stratoscope.scoring import Scoring
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
SPAN_STATS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("start", pa.int32()),
        ("length", pa.int32()),
        ("cosine", pa.float64()),
        ("angle", pa.float64()),
    ]
)
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
    num_prompts, num_layers, num_taps = statistics.shape
    per_prompt = num_layers * num_taps
    columns: dict[str, Any] = {
        "prompt_id": np.repeat(np.asarray(prompt_ids, object), per_prompt),
        "group": np.repeat(np.asarray(groups, object), per_prompt),
        "layer": np.tile(np.repeat(np.arange(num_layers), num_taps), num_prompts),
        "tap": np.tile(np.asarray([str(tap) for tap in taps], object), num_prompts * num_layers),
        "log2_hist": pack_histograms(statistics.histogram.reshape(-1, NUM_BINS)),
        "below": _lists(statistics.below.reshape(num_prompts * per_prompt, -1)),
    }
    for name in ("tokens", "count", "mean", "m2", "pooled_variance", "cosine", "nonfinite"):
        columns[name] = getattr(statistics, name).reshape(-1)
    arrays = [_array(columns[field.name], field.type) for field in PROMPT_STATS]
    schema = PROMPT_STATS.with_metadata({EPSILONS_KEY: repr(list(statistics.epsilons)).encode()})
    return pa.Table.from_arrays(arrays, schema=schema)


def span_stats(cosine: NDArray[np.float64], prompt_ids: Sequence[str], spans: Sequence[tuple[int, int]]) -> pa.Table:
    """Return one row per prompt and span of layers.

    Args:
        cosine: of the last token before and behind each span, shape (prompts, spans).
        prompt_ids: one per prompt.
        spans: (start, length) of each span.

    Source: arXiv 2403.17887 for the angle, arccos(cosine) / pi.
    """
    starts, lengths = np.asarray(spans).T
    flat = cosine.ravel()
    columns = {
        "prompt_id": np.repeat(np.asarray(prompt_ids, object), len(spans)),
        "start": np.tile(starts, len(prompt_ids)),
        "length": np.tile(lengths, len(prompt_ids)),
        "cosine": flat,
        "angle": np.arccos(np.clip(flat, -1, 1)) / np.pi,
    }
    return pa.Table.from_arrays([_array(columns[f.name], f.type) for f in SPAN_STATS], schema=SPAN_STATS)


def statistics_of_tap(
    table: pa.Table, tap: str, epsilons: tuple[float, ...]
) -> tuple[Statistics, list[str], list[str]]:
    """Return the statistics of one tap as arrays of shape (prompts, layers), with the prompts' ids and groups.

    Args:
        table: `prompt_stats`, the rows of a prompt together and in order of layers.
        tap: which tap.
        epsilons: the thresholds that `below` counts.
    """
    rows = table.filter(pc.equal(table["tap"], tap)).combine_chunks()
    num_layers = pc.max(rows["layer"]).as_py() + 1
    shape = (rows.num_rows // num_layers, num_layers)

    def column(name: str) -> NDArray[Any]:
        values: NDArray[Any] = rows[name].to_numpy(zero_copy_only=False).reshape(shape)
        return values

    below = np.asarray(rows["below"].combine_chunks().flatten()).reshape(*shape, len(epsilons))
    statistics = Statistics(
        epsilons=epsilons,
        prompts=(~np.isnan(column("pooled_variance"))).astype(np.int64),
        tokens=column("tokens"),
        count=column("count"),
        mean=column("mean"),
        m2=column("m2"),
        pooled_variance=column("pooled_variance"),
        histogram=unpack_histograms(rows["log2_hist"]).reshape(*shape, NUM_BINS),
        below=below,
        cosine=column("cosine"),
        cosine_tokens=np.where(np.isnan(column("cosine")), 0, column("tokens")),
        nonfinite=column("nonfinite"),
    )
    first = rows.take(np.arange(0, rows.num_rows, num_layers))
    return statistics, first["prompt_id"].to_pylist(), first["group"].to_pylist()


def angles_of(table: pa.Table, prompt_ids: Sequence[str]) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Return the angles of each span by (start, length), in order of `prompt_ids`."""
    num_spans = table.num_rows // len(prompt_ids)
    spans = zip(table["start"][:num_spans].to_pylist(), table["length"][:num_spans].to_pylist(), strict=True)
    angles = table["angle"].to_numpy(zero_copy_only=False).reshape(len(prompt_ids), num_spans)
    return {span: angles[:, column] for column, span in enumerate(spans)}


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
