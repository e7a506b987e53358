"""Statistics of activations as rows of a table, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.activations import Tap
from stratoscope.results import TableRow
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import NUM_BINS

HISTOGRAM_TYPE = pa.struct([("first", pa.int16()), ("counts", pa.list_(pa.int64()))])
EPSILONS_KEY = b"epsilons"
"""Key of the metadata that names the thresholds which `below` counts."""


@dataclass(frozen=True)
class StatisticsColumns(TableRow):
    """Statistics of one unit at one layer and tap; tables with these columns are built and read as arrays."""

    tokens: int
    """Number of tokens."""
    count: int
    """Number of finite activations."""
    mean: float | None
    """Mean of the activations; null where there are none."""
    m2: float | None
    """Sum of squared deviations from the mean; null where there are no activations."""
    pooled_variance: float | None
    """Variance over the width of the token mean; null where the unit has none."""
    log2_hist: Annotated[Mapping[str, Any], HISTOGRAM_TYPE]
    """Histogram of log2 |activation|: the first bin that is not empty, and the counts from there to the last one."""
    below: tuple[int, ...]
    """Number of activations under each threshold that the table's metadata names."""
    cosine: float | None
    """Mean cosine between the layer's input and output; null where the unit has none."""
    nonfinite: int
    """Number of activations that are not finite."""


def statistics_table(
    row_type: type[StatisticsColumns], statistics: Statistics, units: Mapping[str, NDArray[Any]], taps: Sequence[Tap]
) -> pa.Table:
    """Return one row per unit, layer and tap; the rows of a unit are contiguous, in order of layers.

    Args:
        row_type: row type of the table.
        statistics: statistics of shape (units, layers, taps).
        units: columns that describe the units, one value each.
        taps: taps in order of the statistics' last axis.
    """
    num_units, num_layers, num_taps = statistics.shape
    per_unit = num_layers * num_taps
    columns: dict[str, Any] = {name: np.repeat(values, per_unit) for name, values in units.items()} | {
        "layer": np.tile(np.repeat(np.arange(num_layers), num_taps), num_units),
        "tap": np.tile(np.asarray([str(tap) for tap in taps], object), num_units * num_layers),
        "log2_hist": pack_histograms(statistics.histogram.reshape(-1, NUM_BINS)),
        "below": _lists(statistics.below.reshape(num_units * per_unit, -1)),
    }
    for column in row_type.columns():
        if column.name not in columns:
            columns[column.name] = getattr(statistics, column.name).reshape(-1)
    for name in ("mean", "m2"):
        columns[name] = np.where(statistics.count.reshape(-1) > 0, columns[name], np.nan)
    metadata = {EPSILONS_KEY: repr(list(statistics.epsilons)).encode()}
    return row_type.column_table(columns).replace_schema_metadata(metadata)


def statistics_of_tap(table: pa.Table, tap: str, epsilons: tuple[float, ...]) -> tuple[Statistics, pa.Table]:
    """Return the statistics of one tap as arrays of shape (units, layers), and the first row of each unit.

    Args:
        table: a table from `statistics_table`, with a column `prompts` if its units are merged prompts.
        tap: the tap.
        epsilons: thresholds that `below` counts.
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
        mean=np.nan_to_num(column("mean")),
        m2=np.nan_to_num(column("m2")),
        pooled_variance=column("pooled_variance"),
        histogram=unpack_histograms(rows["log2_hist"]).reshape(*shape, NUM_BINS),
        below=below,
        cosine=column("cosine"),
        cosine_tokens=column("cosine_tokens") if merged else np.where(np.isnan(column("cosine")), 0, column("tokens")),
        nonfinite=column("nonfinite"),
    )
    return statistics, rows.take(np.arange(0, rows.num_rows, num_layers))


def pack_histograms(histograms: NDArray[np.integer[Any]]) -> pa.StructArray:
    """Pack histograms, shape (rows, NUM_BINS), from their first to their last bin that is not empty."""
    filled = histograms > 0
    first = filled.argmax(axis=1)
    last = np.where(filled.any(axis=1), NUM_BINS - filled[:, ::-1].argmax(axis=1), first)
    bins = np.arange(NUM_BINS)
    stored = (bins >= first[:, None]) & (bins < last[:, None])
    offsets = np.concatenate([[0], np.cumsum(last - first)]).astype(np.int32)
    counts = pa.ListArray.from_arrays(pa.array(offsets), pa.array(histograms[stored].astype(np.int64)))
    return pa.StructArray.from_arrays([pa.array(first.astype(np.int16)), counts], fields=list(HISTOGRAM_TYPE))


def unpack_histograms(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return packed histograms as an array of shape (rows, NUM_BINS)."""
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


def _lists(matrix: NDArray[np.int64]) -> pa.ListArray:
    rows, width = matrix.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * width), pa.array(matrix.ravel()))
