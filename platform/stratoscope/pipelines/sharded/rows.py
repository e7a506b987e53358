"""Statistics of activations as rows of a table, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.activations import Tap
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import NUM_BINS

HISTOGRAM_TYPE = pa.struct([("first", pa.int16()), ("counts", pa.list_(pa.int64()))])
"""Bins from the first to the last that is not empty; the meaning of a bin is in statistics/histogram.py."""

STATISTICS = [
    pa.field("layer", pa.int32()),
    pa.field("tap", pa.string()),
    pa.field("tokens", pa.int64()),
    pa.field("count", pa.int64()),
    pa.field("mean", pa.float64()),
    pa.field("m2", pa.float64()),
    pa.field("pooled_variance", pa.float64()),
    pa.field("log2_hist", HISTOGRAM_TYPE),
    pa.field("below", pa.list_(pa.int64())),
    pa.field("cosine", pa.float64()),
    pa.field("nonfinite", pa.int64()),
]
"""Columns of the statistics of one unit at one layer and tap."""
EPSILONS_KEY = b"epsilons"


def stats_table(
    statistics: Statistics, units: dict[str, NDArray[Any]], taps: Sequence[Tap], schema: pa.Schema
) -> pa.Table:
    """Return one row per unit, layer and tap; the rows of a unit are together, and in order of layers.

    Args:
        statistics: shape (units, layers, taps).
        units: columns that describe the units, one value each.
        taps: in order of the statistics' last axis.
        schema: of the table; its metadata names the thresholds that were counted.
    """
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
    arrays = [array(columns[field.name], field.type) for field in schema]
    described = schema.with_metadata({EPSILONS_KEY: repr(list(statistics.epsilons)).encode()})
    return pa.Table.from_arrays(arrays, schema=described)


def statistics_of_tap(table: pa.Table, tap: str, epsilons: tuple[float, ...]) -> tuple[Statistics, pa.Table]:
    """Return the statistics of one tap as arrays of shape (units, layers), and the first row of each unit.

    Args:
        table: as `stats_table` makes it; with a column `prompts` where units are prompts merged.
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


def array(values: Any, kind: pa.DataType) -> pa.Array:
    """Return a column of a table; NaN becomes null."""
    return values if isinstance(values, pa.Array) else pa.array(values, kind, from_pandas=True)


def _lists(matrix: NDArray[np.int64]) -> pa.ListArray:
    rows, width = matrix.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * width), pa.array(matrix.ravel()))
