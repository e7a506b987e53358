"""Values of a source: which columns are numbers, and which are left out."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stratoscope.data.series.clock import index_columns
from stratoscope.data.series.numerals import Numbers, of_floats, read_numbers, sentinels
from stratoscope.data.series.source import Reading, clip, counted, listed
from stratoscope.data.series.table import SourceTable, is_number, to_floats
from stratoscope.errors import InputError, nearest


def read_values(
    table: SourceTable, names: Sequence[str], reading: Reading, codes: NDArray[np.int64] | None = None
) -> dict[str, Numbers]:
    """Read columns of numbers.

    Args:
        table: columns of the source without those of the time and the name of a series.
        names: columns to read; an empty sequence takes all columns of numbers.
        reading: what is said about the source; it notes each column that is left out.
        codes: number of each row's series in long form, shape (N,).

    Raises:
        InputError: a column does not exist, some of its cells are not numbers, or no column has numbers.
    """
    unknown = [name for name in names if name not in table.columns]
    if unknown:
        raise InputError(
            f"series.columns: {clip(reading.source.source, from_end=True)!r} has no column {clip(unknown[0])!r}"
            f"{nearest(unknown[0], table.columns) or '.'} Columns: {listed(table.columns)}"
        )
    chosen = {name: table.columns[name] for name in names} if names else _without_index(table, reading, codes)
    numbers = _read(chosen, reading)
    kept = {name: column for name, column in numbers.items() if names or _is_numeric(column)}
    if not names:
        _note_left_out([name for name in chosen if name not in kept], numbers, reading)
    for name, column in kept.items():
        _check_cells(name, column, table, reading)
    if not kept:
        raise reading.refusal(
            f"there is no numeric column; the columns are {listed(table.columns)}; if they are delimited otherwise, "
            "set series.delimiter"
        )
    result = {name: _without_sentinels(name, column, reading) for name, column in kept.items()}
    for name, column in result.items():
        if column.missing.any():
            row = int(column.missing.argmax())
            cell = table.columns[name][row].as_py()
            is_empty = cell is None or str(cell) in ("", "nan")
            shown = "an empty cell" if is_empty else repr(clip(str(cell), 20))
            reading.missing_cells[name] = f"{shown} in {table.place(row)}"
    return result


def _without_index(table: SourceTable, reading: Reading, codes: NDArray[np.int64] | None) -> dict[str, Any]:
    index = index_columns(table, codes)
    if index:
        reading.note(f"columns that number the rows are left out: {listed(index)}")
    return table.without(set(index)).columns


def _read(columns: Mapping[str, Any], reading: Reading) -> dict[str, Numbers]:
    text = {name: column for name, column in columns.items() if pa.types.is_string(column.type)}
    numbers = read_numbers(text, reading)
    for name, column in columns.items():
        if is_number(column.type):
            numbers[name] = of_floats(to_floats(column), reading)
    return {name: numbers[name] for name in columns if name in numbers}


def _is_numeric(column: Numbers) -> bool:
    """Return whether a column has at least as many numbers as other text."""
    return column.num_read > 0 and column.num_read >= column.unreadable.sum()


def _note_left_out(names: Collection[str], numbers: Mapping[str, Numbers], reading: Reading) -> None:
    empty = [name for name in numbers if name in names and numbers[name].missing.all()]
    other = [name for name in names if name not in empty]
    for kind, group in (("that are not numbers", other), ("without values", empty)):
        if group:
            reading.note(f"columns {kind} are left out: {listed(group)}")


def _check_cells(name: str, column: Numbers, table: SourceTable, reading: Reading) -> None:
    wrong = np.flatnonzero(column.unreadable)
    if not len(wrong):
        return
    if not column.num_read:
        raise InputError(
            f"series.columns: column {clip(name)!r} of {clip(reading.source.source)!r} is not numeric; exclude it"
        )
    row = int(wrong[0])
    raise reading.refusal(
        f"column {clip(name)!r}, {table.place(row)}: {clip(str(table.columns[name][row].as_py()), 40)!r} is no number "
        f"({counted(len(wrong), 'such cell')}); correct it, name such cells in series.missing, or choose other columns "
        "with series.columns"
    )


def _without_sentinels(name: str, column: Numbers, reading: Reading) -> Numbers:
    """Return a column without numbers such as -9999 that stand for missing values."""
    if reading.source.missing is not None:
        return column
    for sentinel in sentinels(column.values):
        marked = column.values == sentinel
        reading.note(
            f"{counted(int(marked.sum()), 'value')} of {sentinel:g} in {clip(name)!r}, far from all others, taken as "
            "missing (series.missing NA takes such values as numbers)"
        )
        column = Numbers(np.where(marked, np.nan, column.values), column.missing | marked, column.unreadable)
    return column
