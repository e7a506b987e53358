"""Files in long form: the column that names the series of each row."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratoscope.data.series.clock import TimeColumn, index_columns, is_text
from stratoscope.data.series.source import Reading, clip, listed
from stratoscope.data.series.table import SourceTable
from stratoscope.errors import InputError, suggest

ID_NAMES = {
    *("unique_id", "cols", "item_id", "series_id", "series", "variable", "ticker", "symbol", "id", "item", "name"),
    *("station", "station_id", "sensor", "sensor_id", "store", "store_id", "site", "device", "device_id", "location"),
}
"""Names of columns that name series where times repeat, in lower case."""
LONG_FORM_NAMES = {"unique_id", "cols", "item_id", "series_id"}
"""Names among these that occur only in files in long form."""
SAMPLE = 50
"""Number of rows that are read to distinguish columns of numbers from columns of text."""
DENSITY = 0.5
"""Smallest average share of all times that the series need for a column to be taken as their names (ours)."""


@dataclass(frozen=True, eq=False)
class SeriesIds:
    """Series of each row."""

    column: str
    """Column that it was read from."""
    codes: NDArray[np.int64]
    """Number of each row's series, shape (N,)."""
    names: list[str]
    """Names of the series in the order of their first rows."""


def find_ids(table: SourceTable, time: TimeColumn | None, reading: Reading) -> SeriesIds | None:
    """Return the series of each row, from the named column or the one that is evident.

    A column is evident if its name says so, or if times repeat, but not among the rows with one value of the column.

    Args:
        table: columns of the source without those of the time.
        time: time of each row.
        reading: what is said about the source.

    Returns:
        None where all rows belong to one series.

    Raises:
        InputError: the named column does not exist, several columns may name the series, or rows without a time lie in
            blocks of several series.
    """
    named = reading.source.id
    if named is not None:
        if named not in table.columns:
            raise InputError(
                f"series.id: no column is called {clip(named)!r}{suggest(named, table.columns, 'columns')}"
            )
        return _ids(table, named)
    candidates = list(_candidates(table, time))
    if time is None and candidates:
        raise reading.refusal(
            f"column {clip(candidates[0].column)!r} seems to name {len(candidates[0].names):,} series one after "
            "another; name it with series.id, or set series.time to the column of the time"
        )
    if len(candidates) > 1:
        candidates = [ids for ids in candidates if ids.column.lower() in ID_NAMES] or candidates
    if len(candidates) > 1:
        raise reading.refusal(
            f"times repeat, and several columns may name the series: {listed(ids.column for ids in candidates)}; name "
            "one with series.id"
        )
    return candidates[0] if candidates else None


def _candidates(table: SourceTable, time: TimeColumn | None) -> Iterator[SeriesIds]:
    index = index_columns(table)
    for name, column in table.columns.items():
        named = name.lower() in ID_NAMES
        if name in index or not (named or is_text(column[:SAMPLE])) or len(column.unique()) in (1, len(column)):
            continue
        ids = _ids(table, name)
        if _in_blocks(ids) if time is None else _tells_apart(ids, time, named=named):
            yield ids


def _ids(table: SourceTable, name: str) -> SeriesIds:
    encoded = table.columns[name].dictionary_encode(null_encoding="encode")
    names = [_name(value) for value in encoded.dictionary.to_pylist()]
    return SeriesIds(name, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), names)


def _name(value: Any) -> str:
    """Return an id as text with all its digits; a whole number has no decimal point."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _tells_apart(ids: SeriesIds, time: TimeColumn, *, named: bool) -> bool:
    """Return whether a column tells series apart.

    It does so if times repeat and the series have at least the share `DENSITY` of all times on average. Times must not
    repeat within a series, unless the column has one of the `ID_NAMES`. A name of `LONG_FORM_NAMES` suffices alone.
    """
    if named and ids.column.lower() in LONG_FORM_NAMES:
        return True
    distinct, numbers = np.unique(time.values, return_inverse=True)
    pairs = len(np.unique(numbers * len(ids.names) + ids.codes))
    is_dense = pairs >= DENSITY * len(ids.names) * len(distinct)
    return is_dense and pairs > len(distinct) and (named or pairs == len(numbers))


def _in_blocks(ids: SeriesIds) -> bool:
    """Return whether each series is one block of rows, and all blocks have the same length, which is above one."""
    changes = np.flatnonzero(np.diff(ids.codes)) + 1
    lengths = np.diff([0, *changes, len(ids.codes)])
    return len(lengths) == len(ids.names) and len(set(lengths.tolist())) == 1 and lengths[0] > 1
