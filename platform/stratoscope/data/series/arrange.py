"""Rows in the order of time, one for each time: sorting, repeated times, long form, missing times and values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratoscope.data.series.clock import TimeColumn
from stratoscope.data.series.grid import Grid, find_grid, time_text
from stratoscope.data.series.long_form import SeriesIds
from stratoscope.data.series.numerals import Numbers
from stratoscope.data.series.source import Reading, clip, counted
from stratoscope.data.series.table import SourceTable

REPAIR = "series.fill interpolate or forward"
LARGE_SHARE = 0.2
"""Share of rows with repeated times above which they are taken for several series (ours)."""
AS_IT_IS = "series.time none takes rows in the order of the file"


@dataclass(frozen=True, eq=False)
class Cells:
    """Values by row of the source."""

    table: SourceTable
    """The source."""
    values: dict[str, NDArray[np.float64]]
    """Columns of values, shape (N,) each; NaN where a value is missing."""
    time: TimeColumn | None
    """Time of each row."""
    ids: SeriesIds | None
    """Series of each row, in long form."""

    @classmethod
    def of(
        cls, table: SourceTable, numbers: Mapping[str, Numbers], time: TimeColumn | None, ids: SeriesIds | None
    ) -> "Cells":
        """Return the cells of columns of numbers."""
        return cls(table, {name: column.values for name, column in numbers.items()}, time, ids)


@dataclass(frozen=True, eq=False)
class Frame:
    """Values by time, in order."""

    columns: tuple[str, ...]
    """Names of the columns."""
    values: NDArray[np.float64]
    """Values, shape (T, C); NaN where one is missing."""
    places: list[str]
    """Time of each row, or its place in the source where there is no time."""
    step: str | None
    """Step of the times in words; None without times."""


def arrange(cells: Cells, reading: Reading) -> Frame:
    """Return values in the order of time, with every time once and none missing.

    Raises:
        InputError: times are out of order, repeated, missing or uneven, and `series.fill` does not repair them; or
            values are missing.
    """
    codes = np.zeros(len(cells.table), dtype=np.int64) if cells.ids is None else cells.ids.codes
    if cells.time is None:
        positions = _positions(codes)
        return _matrix(cells, positions, codes, np.unique(positions), reading, step=None)
    _check_order(cells, cells.time, codes, reading)
    times = np.unique(cells.time.values)[: reading.source.limit]
    _check_repetition(cells, cells.time, codes, times, reading)
    grid = _checked_grid(cells, cells.time, times, reading)
    step = None if grid is None else grid.step
    frame = _matrix(cells, cells.time.values, codes, times, reading, step=step)
    return frame if grid is None or grid.is_complete else _with_missing_times(frame, grid, reading)


def _positions(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each row within its series."""
    positions = np.empty(len(codes), dtype=np.int64)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        positions[rows] = np.arange(len(rows))
    return positions


def _check_order(cells: Cells, time: TimeColumn, codes: NDArray[np.int64], reading: Reading) -> None:
    """Note rows that are newest first, or that `series.fill` allows to be sorted; refuse other rows out of order."""
    rows = np.argsort(codes, kind="stable")
    within = np.diff(codes[rows]) == 0
    steps = np.diff(time.values[rows])
    backward = within & (steps < 0)
    if not backward.any():
        return
    if not (within & (steps > 0)).any():
        reading.note(f"rows were newest first by {time.name} and are turned round")
    elif reading.source.fill == "none":
        first = int(np.flatnonzero(backward)[0])
        earlier, later = rows[first], rows[first + 1]
        repeated = len(np.unique(time.values)) < len(time.values)
        several = "if a column tells several series apart, name it with series.id; " if repeated else ""
        raise reading.refusal(
            f"times in {time.name} are out of order: {_time(time, later)} in {cells.table.place(later)} comes after "
            f"{_time(time, earlier)}; {several}{REPAIR} sorts them, {AS_IT_IS}"
        )
    else:
        reading.note(f"rows were out of order and are sorted by {time.name} (series.fill {reading.source.fill})")


def _time(time: TimeColumn, row: int) -> str:
    return time_text(time.values[row], time.kind)


def _check_repetition(
    cells: Cells, time: TimeColumn, codes: NDArray[np.int64], times: NDArray[Any], reading: Reading
) -> None:
    """Note or refuse rows that repeat a time of their series; if they are noted, the last row of each time counts."""
    read = np.flatnonzero(time.values <= times[-1])
    numbers = np.searchsorted(times, time.values[read]) * (int(codes.max()) + 1) + codes[read]
    _, firsts = np.unique(numbers, return_index=True)
    repeated = np.setdiff1d(np.arange(len(read)), firsts)
    if not len(repeated):
        return
    number = counted(len(repeated), "repeated time")
    if reading.source.fill == "none" or len(repeated) > LARGE_SHARE * len(read):
        row = int(read[repeated[0]])
        repair = f"{REPAIR} keeps the last row of each time" if len(repeated) <= LARGE_SHARE * len(read) else AS_IT_IS
        raise reading.refusal(
            f"{number} in {time.name} among {len(read):,} rows, the first {_time(time, row)} in "
            f"{cells.table.place(row)}; if a column tells several series apart, name it with series.id; {repair}"
        )
    reading.note(f"{number} left out; the last row of each time is kept (series.fill {reading.source.fill})")


def _checked_grid(cells: Cells, time: TimeColumn, times: NDArray[Any], reading: Reading) -> Grid | None:
    """Return the grid of the times; None for a single time."""
    if len(times) < 2:
        return None
    grid = find_grid(times, time.kind)
    if grid is None:
        row = _uneven_row(time, times)
        raise reading.refusal(
            f"times in {time.name} have no common step: see {_time(time, row)} in {cells.table.place(row)}; resample "
            f"the series to even steps, or {AS_IT_IS}"
        )
    if not grid.is_complete and reading.source.fill == "none":
        gap = grid.first_gap
        raise reading.refusal(
            f"{counted(grid.num_missing, 'missing time')} in {time.name} (step {grid.step}), the first between "
            f"{time_text(times[gap], time.kind)} and {time_text(times[gap + 1], time.kind)}; {REPAIR} inserts them, "
            f"{AS_IT_IS}"
        )
    if grid.num_missing > len(times):
        raise reading.refusal(
            f"{grid.num_missing:,} of {grid.num_missing + len(times):,} times are missing in {time.name} (step "
            f"{grid.step}), too many to be filled; resample the series, or {AS_IT_IS}"
        )
    return grid


def _uneven_row(time: TimeColumn, times: NDArray[Any]) -> int:
    """Return the row at the end of the first step that differs from the step before it."""
    steps = np.diff(times)
    changes = np.flatnonzero(steps != steps[0])
    uneven = times[int(changes[0]) + 1] if len(changes) else times[1]
    return int(np.flatnonzero(time.values == uneven)[0])


def _matrix(
    cells: Cells,
    row_times: NDArray[Any],
    codes: NDArray[np.int64],
    times: NDArray[Any],
    reading: Reading,
    *,
    step: str | None,
) -> Frame:
    times = times[: reading.source.limit]
    rows = np.flatnonzero(row_times <= times[-1])
    numbers = np.searchsorted(times, row_times[rows])
    names = None if cells.ids is None else cells.ids.names
    columns: dict[str, NDArray[np.float64]] = {}
    for name, column in cells.values.items():
        matrix = np.full((len(times), len(names or [""])), np.nan)
        # Where indices repeat, the last row in file order is kept.
        matrix[numbers, codes[rows]] = column[rows]
        for column_name, values in zip(_column_names(name, names, len(cells.values)), matrix.T, strict=True):
            if column_name in columns:
                raise reading.refusal(
                    f"two series in long form would be called {clip(column_name)!r}; rename one, or choose one column "
                    "of values with series.columns"
                )
            columns[column_name] = values
    if cells.time is None:
        places = [cells.table.place(int(row)) for row in rows] if names is None else [f"row {t}" for t in times]
    else:
        places = [time_text(t, cells.time.kind) for t in times]
    return Frame(tuple(columns), np.stack(list(columns.values()), axis=1), places, step)


def _column_names(name: str, ids: list[str] | None, num_columns: int) -> list[str]:
    if ids is None:
        return [name]
    return ids if num_columns == 1 else [f"{each}.{name}" for each in ids]


def _with_missing_times(frame: Frame, grid: Grid, reading: Reading) -> Frame:
    values = np.full((int(grid.positions[-1]) + 1, len(frame.columns)), np.nan)
    values[grid.positions] = frame.values
    last = np.searchsorted(grid.positions, np.arange(len(values)), side="right") - 1
    missing = np.setdiff1d(np.arange(len(values)), grid.positions)
    places = [frame.places[row] for row in last]
    for row in missing:
        places[row] = f"a time after {places[row]}"
    reading.note(f"{counted(grid.num_missing, 'missing time')} inserted (series.fill {reading.source.fill})")
    return replace(frame, values=values, places=places)
