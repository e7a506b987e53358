"""Recognition of the columns that state the time of a row."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.data.series.grid import DAY
from stratoscope.data.series.numerals import MISSING_MARKS, PLAIN_NUMBER
from stratoscope.data.series.source import NO_TIME, Reading, clip, listed
from stratoscope.data.series.table import SourceTable, is_number, to_floats
from stratoscope.data.series.times import (
    TimeError,
    TimeForm,
    TimeKind,
    form_of,
    is_clock,
    read_number_times,
    read_times,
    read_years,
)
from stratoscope.errors import InputError, suggest

TIME_NAMES = {"date", "time", "datetime", "timestamp", "ds", "date_time", "date time", "time_stamp", "dates", "times"}
"""Names of columns that must be readable as times, in lower case."""
NUMBER_NAMES = {*TIME_NAMES, "epoch", "unix", "unixtime", "unix_time", "unix timestamp", "ts", "t", "step", "time_idx"}
"""Names of columns whose numbers are times, in lower case."""
PANDAS_INDEX = re.compile(r"unnamed: \d+(\.\d+)*|index|level_0|__index_level_0__")
"""Names that pandas gives to an index, in lower case."""
ROW_NUMBERS = {"rownames", "row", "rownum", "row_number", "no", "instant", "id", "obs", "c1"}
"""Names of columns that may number the rows, in lower case; c1 is the first column of a file without header."""
SAMPLE = 20
"""Number of rows that are read to recognise times of day."""
PARTS = ("year", "month", "day", "hour", "minute", "second")
HOUR_NAMES = ("hour", "hr")
ADVICE = "name the columns of the time with series.time, or set series.time none to take rows in the order of the file"


@dataclass(frozen=True, eq=False)
class TimeColumn:
    """The time of each row."""

    names: tuple[str, ...]
    """Columns that it was read from."""
    values: NDArray[Any]
    """Microseconds since 1970, or numbers of a counter, shape (N,)."""
    kind: TimeKind
    """Kind of the values."""

    @property
    def name(self) -> str:
        """Names of the columns, for readers."""
        return " and ".join(repr(clip(name, 30)) for name in self.names)


def find_time(table: SourceTable, reading: Reading) -> TimeColumn | None:
    """Return the time of each row, from the named columns or from those that are evident.

    Args:
        table: columns of the source.
        reading: what is said about the source.

    Returns:
        None where no column states a time, or `series.time` is none.

    Raises:
        InputError: a named column is missing, or a column that must be a time is not.
    """
    named = reading.source.time
    if [name.lower() for name in named] == [NO_TIME]:
        return None
    for name in named:
        if name not in table.columns:
            raise InputError(
                f"series.time: no column is called {clip(name)!r}{suggest(name, table.columns, 'columns')}"
            )
    time = _named_time(table, named, reading) if named else _recognised_time(table, reading)
    return _with_hours(table, time, reading) if time is not None and not named else time


def _named_time(table: SourceTable, names: Sequence[str], reading: Reading) -> TimeColumn:
    if len(names) > 1:
        time = _joined_time(table, tuple(names), reading)
    else:
        time = _one_column(table, names[0], reading, required=True)
    if time is None:
        raise reading.refusal(f"column {clip(names[0])!r} is not readable as times; {ADVICE}")
    return time


def _recognised_time(table: SourceTable, reading: Reading) -> TimeColumn | None:
    """Return the first kind that is found: dates (with a time of day), parts of dates, numbers, or an index."""
    dates = list(_date_columns(table, reading))
    if dates:
        return max(dates, key=lambda time: (len(np.unique(time.values)), time.names[0].lower() in TIME_NAMES))
    parts = _from_parts(table)
    if parts is not None:
        return parts
    for name in table.columns:
        if name.lower() in NUMBER_NAMES:
            time = _one_column(table, name, reading, required=name.lower() in TIME_NAMES)
            if time is not None:
                return time
    return _first_column(table) or _year(table) or _index(table)


def _date_columns(table: SourceTable, reading: Reading) -> Iterator[TimeColumn]:
    """Yield the readable columns of dates; if there are none, raise the first error that occurred in reading one."""
    found, failure = False, None
    for name, column in table.columns.items():
        if not (pa.types.is_timestamp(column.type) or _has_dates(column)):
            continue
        clock = _clock_column(table, name)
        required = name.lower() in TIME_NAMES or clock is not None
        try:
            time = (
                _one_column(table, name, reading, required=required)
                if clock is None
                else _joined_time(table, (name, clock), reading)
            )
        except InputError as error:
            failure = failure or error
            continue
        if time is not None:
            found = True
            yield time
    if failure is not None and not found:
        raise failure


def _has_dates(column: Any) -> bool:
    """Return whether a few cells of a column of text include a date other than a number such as 20200131."""
    if not pa.types.is_string(column.type):
        return False
    sample = [
        column[int(row)].as_py() for row in np.unique([0, 1, len(column) // 2, len(column) - 1]) if row < len(column)
    ]
    return any(not PLAIN_NUMBER.fullmatch(cell) and form_of(cell) is not None for cell in sample)


def _one_column(table: SourceTable, name: str, reading: Reading, *, required: bool) -> TimeColumn | None:
    """Return a column as times, or None if it does not hold times and is not required to.

    Raises:
        InputError: the column holds times, or is required to, but a cell is not a time.
    """
    column = table.columns[name]
    if pa.types.is_timestamp(column.type):
        return _timestamp_time(table, name, reading)
    if is_text(column):
        return _text_time(table, (name,), column, reading, required=required)
    values = _as_numbers(column)
    if values is None or np.isnan(values).any():
        if required:
            raise reading.refusal(f"column {clip(name)!r} has rows without a time; {ADVICE}")
        return None
    read = read_number_times(values)
    if read is None and required:
        raise reading.refusal(f"the numbers in column {clip(name)!r} are no times; {ADVICE}")
    return None if read is None else TimeColumn((name,), *read)


def _timestamp_time(table: SourceTable, name: str, reading: Reading) -> TimeColumn:
    column = table.columns[name]
    missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
    if len(missing):
        raise _without_time(table, (name,), int(missing[0]), reading)
    if column.type.tz is not None:
        reading.note(f"times in {name!r} are read in UTC")
    return TimeColumn((name,), column.cast(pa.int64()).to_numpy(zero_copy_only=False), "time")


def _without_time(table: SourceTable, names: tuple[str, ...], row: int, reading: Reading) -> InputError:
    return reading.refusal(
        f"{table.place(row)} has no time in column {listed(names)}; remove the line or give it a time"
    )


def _text_time(
    table: SourceTable, names: tuple[str, ...], texts: Any, reading: Reading, *, required: bool
) -> TimeColumn | None:
    form = _form(texts)
    if form is None:
        if not required:
            return None
        cell = next((cell for cell in texts.to_pylist() if cell), "")
        raise reading.refusal(f"column {listed(names)}: {clip(cell)!r} in {table.place(0)} is no time; {ADVICE}")
    try:
        values = read_times(names[0], texts, form, reading)
    except TimeError as error:
        if texts[error.row].as_py().lower() in MISSING_MARKS:
            raise _without_time(table, names, error.row, reading) from None
        raise reading.refusal(
            f"column {listed(names)}, {table.place(error.row)}: {error}; correct the cell, or {ADVICE}"
        ) from None
    if form.zoned:
        reading.note(f"times in {names[0]!r} are read in UTC")
    return TimeColumn(names, values, "time")


def _form(texts: Any) -> TimeForm | None:
    """Return the most common form of the first cells, or else that of the first cell in the column that has one."""
    forms = [form for cell in texts[:20].to_pylist() if (form := form_of(cell)) is not None]
    return max(forms, key=forms.count, default=None) or next(
        (form for cell in texts.to_pylist() if (form := form_of(cell)) is not None), None
    )


def is_text(column: Any) -> bool:
    """Return whether a column, or the start of one, holds text that is not only numbers."""
    return bool(pa.types.is_string(column.type)) and _as_numbers(column) is None


def _as_numbers(column: Any) -> NDArray[np.float64] | None:
    if not (pa.types.is_string(column.type) or is_number(column.type)):
        return None
    try:
        return to_floats(column)
    except pa.ArrowInvalid:
        return None


def _as_text(column: Any) -> Any:
    if pa.types.is_timestamp(column.type):
        return pa.array([str(cell)[:10] for cell in column.to_pylist()])
    return column.cast(pa.string()) if not pa.types.is_string(column.type) else column


def _joined_time(table: SourceTable, names: tuple[str, ...], reading: Reading) -> TimeColumn | None:
    parts = [_as_text(table.columns[name]) for name in names]
    return _text_time(table, names, pc.binary_join_element_wise(*parts, " "), reading, required=True)


def _clock_column(table: SourceTable, name: str) -> str | None:
    """Return the column with the time of day, if the dates of a column have none."""
    column = table.columns[name]
    if pa.types.is_timestamp(column.type):
        only_dates = not (column.fill_null(0).cast(pa.int64()).to_numpy() % DAY).any()
    else:
        only_dates = not pc.any(pc.match_substring(column, ":")).as_py()
    others = (other for other, cells in table.columns.items() if pa.types.is_string(cells.type)) if only_dates else ()
    return next((o for o in others if all(is_clock(cell) for cell in table.columns[o][:SAMPLE].to_pylist())), None)


def _with_hours(table: SourceTable, time: TimeColumn, reading: Reading) -> TimeColumn:
    """Add the hours (0 to 24) of another column to dates that repeat, if there is such a column."""
    if time.kind == "counter" or (time.values % DAY).any() or len(np.unique(time.values)) == len(time.values):
        return time
    for name, column in table.columns.items():
        hours = _as_numbers(column) if name.lower() in HOUR_NAMES else None
        if hours is not None and ((hours >= 0) & (hours <= 24) & (hours == np.floor(hours))).all():
            reading.note(f"column {name!r} is the hour of {time.name}")
            return TimeColumn((*time.names, name), time.values + hours.astype(np.int64) * (DAY // 24), "time")
    return time


def _from_parts(table: SourceTable) -> TimeColumn | None:
    """Return times from the columns year, month, day and so on."""
    by_name = {name.lower(): name for name in table.columns}
    names = [by_name[part] for part in PARTS if part in by_name]
    if [name.lower() for name in names] != list(PARTS[: len(names)]) or len(names) < 2:
        return None
    numbers = [_as_numbers(table.columns[name]) for name in names]
    if any(part is None or np.isnan(part).any() for part in numbers):
        return None
    import pandas as pd

    columns = dict(zip(PARTS, numbers, strict=False))
    frame = pd.DataFrame({"day": 1} | columns)
    times = pd.to_datetime(frame, errors="coerce")
    if times.isna().any():
        return None
    return TimeColumn(tuple(names), times.to_numpy().astype("datetime64[us]").astype(np.int64), "time")


def _first_column(table: SourceTable) -> TimeColumn | None:
    """Return the first column if its numbers are evenly spaced dates or seconds since 1970."""
    name = next(iter(table.columns))
    values = _as_numbers(table.columns[name])
    if values is None or len(values) < 3 or np.isnan(values).any():
        return None
    read = read_number_times(values)
    if read is None or read[1] != "time":
        return None
    steps = np.diff(read[0])
    even = len(np.unique(steps)) == 1 and steps[0] != 0
    return TimeColumn((name,), read[0], "time") if even else None


def _year(table: SourceTable) -> TimeColumn | None:
    for name, column in table.columns.items():
        values = _as_numbers(column) if name.lower() == "year" else None
        years = None if values is None or np.isnan(values).any() else read_years(values)
        if years is not None:
            return TimeColumn((name,), years, "time")
    return None


def _index(table: SourceTable) -> TimeColumn | None:
    name = next(iter(index_columns(table)), None)
    values = None if name is None else _as_numbers(table.columns[name])
    return None if name is None or values is None else TimeColumn((name,), values, "counter")


def index_columns(table: SourceTable, codes: NDArray[np.int64] | None = None) -> list[str]:
    """Return the columns that only number the rows, such as the index that pandas writes.

    Args:
        table: columns of the source.
        codes: number of each row's series in long form, shape (N,). Row numbers may begin anew in each series, as after
            pandas.concat.
    """
    series = np.zeros(len(table), dtype=np.int64) if codes is None else codes
    return [name for name in table.columns if _is_index(table, name, series)]


def _is_index(table: SourceTable, name: str, series: NDArray[np.int64]) -> bool:
    lower = name.lower()
    if not (PANDAS_INDEX.fullmatch(lower) or lower in ROW_NUMBERS):
        return False
    values = _as_numbers(table.columns[name])
    if values is None or np.isnan(values).any() or (values != np.floor(values)).any():
        return False
    if lower in ROW_NUMBERS:
        return _counts_rows(values, np.zeros_like(series)) or _counts_rows(values, series)
    order = np.lexsort((values, series))
    return not ((np.diff(series[order]) == 0) & (np.diff(values[order]) == 0)).any()


def _counts_rows(values: NDArray[np.float64], series: NDArray[np.int64]) -> bool:
    """Return whether the values of each series are 0, 1, 2 and so on, or 1, 2, 3 and so on."""
    order = np.argsort(series, kind="stable")
    starts = np.diff(series[order], prepend=-1) != 0
    steps = np.diff(values[order], prepend=0)
    return bool((steps[~starts] == 1).all() and np.isin(values[order][starts], (0, 1)).all())
