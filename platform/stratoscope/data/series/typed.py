"""Tables with types: Parquet, Arrow, JSON lines and data sets of the hub."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet

from stratoscope.data.files import READERS, read_files
from stratoscope.data.known import locate
from stratoscope.data.prompts import HUB_NAME, PromptSource, read_rows
from stratoscope.data.series.delimited import read_delimited
from stratoscope.data.series.source import KNOWN_SERIES, PACKAGE, VERSION, Reading, clip, listed
from stratoscope.data.series.table import SourceTable, is_number
from stratoscope.errors import InputError, first_line, suggest
from stratoscope.hub import local_path

LONGEST_HUB_NAME = 200
COMPRESSIONS = (".gz", ".bz2", ".zst")
TEXT_KINDS = (".csv", ".tsv", ".txt")


def read_table(reading: Reading) -> SourceTable:
    """Read the columns of a source.

    Raises:
        InputError: the source is unknown or unreadable, or has no rows.
    """
    known = KNOWN_SERIES.get(reading.source.source)
    if known is not None:
        file = locate(PACKAGE, VERSION, known.file, f"the series {reading.source.source!r}")
        table = read_delimited(file, reading)
        table = table if known.row_filter is None else table.filtered(*known.row_filter)
    else:
        table = _read_path_or_hub(reading)
    if not len(table):
        raise reading.refusal("holds no rows")
    return table


def _read_path_or_hub(reading: Reading) -> SourceTable:
    name = reading.source.source
    if not name.strip():
        raise InputError("series.source is empty; name a known series, a file or a hub name (owner/name)")
    path = local_path(name)
    with suppress(OSError):  # such as a name that is too long
        if path.is_dir():
            return _read_folder(path, reading)
        if path.is_file():
            return _read_file(path, reading)
    if not HUB_NAME.fullmatch(name) or len(name) > LONGEST_HUB_NAME or name.startswith(".") or path.suffix:
        raise InputError(
            f"series.source {clip(name, from_end=True)!r} is no known series, file or hub name (owner/name)"
            f"{suggest(name, KNOWN_SERIES, 'series')}"
        )
    return _typed(_from_rows(list(read_rows(PromptSource(name), "series.source")), reading), reading)


def _read_folder(path: Path, reading: Reading) -> SourceTable:
    kinds = {*TEXT_KINDS, *TYPED_READERS, *READERS}
    files = sorted(file for file in path.rglob("*") if _kind(file) in kinds and file.is_file())
    if not files:
        raise reading.refusal(f"the folder contains no file of the kinds {', '.join(sorted(kinds))}")
    tables = []
    for file in files:
        reading.file = file.name
        tables.append(_read_file(file, reading))
    reading.file = None
    if any(table.columns.keys() != tables[0].columns.keys() for table in tables):
        raise reading.refusal(f"the {len(files)} files of the folder have different columns; name one of them")
    if len(files) > 1:
        reading.note(f"{len(files):,} files of the folder are read one after another: {listed(f.name for f in files)}")
    return _joined(tables, reading)


def _joined(tables: list[SourceTable], reading: Reading) -> SourceTable:
    columns = {}
    for name in tables[0].columns:
        parts = _alike([table.columns[name] for table in tables])
        if any(part.type != parts[0].type for part in parts):
            raise reading.refusal(f"column {clip(name)!r} has different types in the files of the folder")
        columns[name] = pa.concat_arrays(parts)
    unit = "row" if len(tables) > 1 else tables[0].unit
    rows = np.arange(sum(map(len, tables))) if len(tables) > 1 else tables[0].rows
    return SourceTable(columns, rows, unit)


def _alike(parts: list[Any]) -> list[Any]:
    """Return parts of a column in a common type if all are numbers."""
    types = {part.type for part in parts}
    if len(types) == 1 or not all(map(is_number, types)):
        return parts
    common = pa.int64() if all(map(pa.types.is_integer, types)) and pa.uint64() not in types else pa.float64()
    return [pc.cast(part, common, safe=False) for part in parts]


def _kind(path: Path) -> str:
    """Return the suffix of a file without that of its compression."""
    return (Path(path.stem) if path.suffix in COMPRESSIONS else path).suffix.lower()


def _read_file(path: Path, reading: Reading) -> SourceTable:
    kind = _kind(path)
    try:
        if kind in TEXT_KINDS:
            return read_delimited(path, reading)
        if kind in TYPED_READERS:
            return _typed(TYPED_READERS[kind](path), reading)
    except (pa.ArrowException, OSError) as error:
        raise reading.refusal(f"cannot be read as {kind[1:]}: {clip(first_line(error), 200)}") from error
    if kind in READERS:
        return _typed(_from_rows(list(read_files(path, "series.source")), reading), reading)
    raise reading.refusal(
        f"files of kind {path.suffix!r} cannot be read; use one of {', '.join((*TEXT_KINDS, *TYPED_READERS, '.jsonl'))}"
    )


def _read_parquet(path: Path) -> Any:
    return pyarrow.parquet.ParquetFile(path).read()


def _read_arrow(path: Path) -> Any:
    """Return the table of an Arrow file: Feather, the file format or a stream."""
    with pa.memory_map(str(path)) as source:
        head = bytes(source.read(6))
    if head[:4] == b"FEA1" or head == b"ARROW1":
        return pyarrow.feather.read_table(str(path))
    with pa.input_stream(str(path)) as stream:
        return pyarrow.ipc.open_stream(stream).read_all()


TYPED_READERS: dict[str, Callable[[Path], Any]] = {
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}


def _from_rows(rows: list[dict[str, Any]], reading: Reading) -> Any:
    if not rows:
        raise reading.refusal("holds no rows")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _array([row.get(name) for row in rows]) for name in names})


def _array(cells: list[Any]) -> Any:
    """Return cells as an Arrow array, as text where their types differ or an integer is too large for 64 bits."""
    try:
        return pa.array(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if cell is None else str(cell) for cell in cells])


def _typed(table: Any, reading: Reading) -> SourceTable:
    names = table.column_names
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise reading.refusal(f"two columns are called {clip(repeated)!r}; rename one")
    columns = {name: _column(column.combine_chunks()) for name, column in zip(names, table.columns, strict=True)}
    return SourceTable(columns, np.arange(table.num_rows), "row")


def _column(column: Any) -> Any:
    """Return a column as text, numbers or times; other types remain.

    Integers and decimals remain too, since they may name series, and float64 would round them.
    """
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _column(column.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_time(kind):
        return pc.utf8_trim_whitespace(pc.fill_null(pc.cast(column, pa.string()), ""))
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _timestamps(column)
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.float64())
    if pa.types.is_floating(kind):
        return pc.cast(column, pa.float64(), safe=False)
    return column


def _timestamps(column: Any) -> Any:
    """Return times in microseconds; a time zone is kept."""
    if pa.types.is_date(column.type):
        column = pc.cast(column, pa.timestamp("ms"))
    return pc.cast(column, pa.timestamp("us", column.type.tz), safe=False)
