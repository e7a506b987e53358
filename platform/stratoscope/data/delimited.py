"""Rows of CSV and TSV files, block by block, with the types of columns that Arrow infers from the whole file.

Arrow's own reader keeps all rows in memory, accepts odd quotes silently, and does not report the line of an error.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv

from stratoscope.data.encoding import open_text, without_marks
from stratoscope.data.rows import SourceRow, as_written, repeated_name

Quoting = Literal["auto", "always", "never"]
"""Whether quotes enclose fields; auto means always in CSV files, and in TSV files only where that is evident."""
_BLOCK_ROWS, _BLOCK_CHARACTERS = 4096, 1 << 23
_QUOTE = '"'
_TYPES = (
    pa.null(),
    pa.int64(),
    pa.bool_(),
    pa.date32(),
    pa.time32("s"),
    pa.timestamp("s"),
    pa.timestamp("s", "UTC"),
    pa.timestamp("ns"),
    pa.timestamp("ns", "UTC"),
    pa.float64(),
)
"""Types that Arrow tries for a column, in this order; text always fits."""

Record = list[str]
"""Cells of a row."""


class OddQuoteError(ValueError):
    """Raised where a field begins with a quote and does not end with one."""


@dataclass(frozen=True)
class DelimitedFile:
    """A CSV or TSV file.

    Args:
        path: the file.
        delimiter: character between fields.
        encoding: as in `open_text`.
        quoted: whether fields may be enclosed in quotes.
    """

    path: Path
    delimiter: str
    encoding: str | None
    quoted: bool

    def rows(self) -> Iterator[SourceRow]:
        """Yield the rows; the file is read twice, first for the types of its columns.

        Raises:
            OddQuoteError: a field begins with a quote and does not end with one.
            ValueError: a row does not have as many fields as the header, or two columns have the same name.
        """
        names, types = self._infer_types()
        for block in self._blocks():
            columns = [_typed(cells, kind) for cells, kind in zip(zip(*block, strict=True), types, strict=True)]
            for cells, *values in zip(block, *columns, strict=True):
                written = map(as_written, values, cells)
                yield SourceRow(
                    dict(zip(names, values, strict=True)), dict(zip(names, written, strict=True)), delimited=True
                )

    def _infer_types(self) -> tuple[Record, list[pa.DataType]]:
        names = next(self._records(), [])
        candidates = [_TYPES] * len(names)
        for block in self._blocks():
            columns = zip(*block, strict=True)
            candidates = [
                tuple(kind for kind in kinds if _convert(cells, kind) is not None)
                for kinds, cells in zip(candidates, columns, strict=True)
            ]
        return names, [kinds[0] if kinds else pa.string() for kinds in candidates]

    def _blocks(self) -> Iterator[list[Record]]:
        """Yield lists of rows, of bounded size, without the header."""
        block: list[Record] = []
        size = 0
        for number, record in enumerate(self._records()):
            if number:
                block.append(record)
                size += sum(map(len, record))
            if len(block) == _BLOCK_ROWS or size > _BLOCK_CHARACTERS:
                yield block
                block, size = [], 0
        if block:
            yield block

    def _records(self) -> Iterator[Record]:
        """Yield the header and the rows, without empty lines."""
        csv.field_size_limit(sys.maxsize)
        quoting: Any = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        with open_text(self.path, self.encoding, newline="") as lines:
            reader = csv.reader(without_marks(lines), delimiter=self.delimiter, quoting=quoting, strict=True)
            width = 0
            while True:
                first_line = reader.line_num + 1
                try:
                    record = next(reader, None)
                except csv.Error as error:
                    raise _error_of(error, first_line) from error
                if record is None:
                    return
                if record:
                    width = width or _check_header(record)
                    _check_width(record, width, first_line)
                    yield record


def is_quoted(path: Path, encoding: str | None, quoting: Quoting, delimiter: str) -> bool:
    """Return whether quotes enclose fields of a file, as set by an option or as evident from the file.

    Quotes evidently enclose fields of a TSV file in three cases. A field of the header begins with a quote. A line does
    not have as many fields as the header if it is split at every tab. Or every field that begins with a quote also ends
    with one, and either this holds for all filled fields of a column, or a field has a doubled quote inside.
    """
    if quoting != "auto" or delimiter != "\t":
        return quoting != "never"
    with open_text(path, encoding, newline="") as lines:
        header = _fields(next(lines, ""))
        if any(field.startswith(_QUOTE) for field in header):
            return True
        clean, doubled = True, False
        filled, enclosed = [0] * len(header), [0] * len(header)
        for line in lines:
            fields = _fields(line)
            if fields == [""]:
                continue
            if len(fields) != len(header):
                return True
            for column, field in enumerate(fields):
                filled[column] += bool(field)
                if field.startswith(_QUOTE):
                    inner = field[1:-1]
                    closed = len(field) > 1 and field.endswith(_QUOTE) and _QUOTE not in inner.replace('""', "")
                    clean &= closed
                    doubled |= '""' in inner
                    enclosed[column] += closed
    whole_column = any(0 < count == number for count, number in zip(filled, enclosed, strict=True))
    return clean and (doubled or whole_column)


def _fields(line: str) -> list[str]:
    return line.rstrip("\r\n").removeprefix("\ufeff").split("\t")


def _error_of(error: csv.Error, line: int) -> ValueError:
    if "expected after" in str(error) or "end of data" in str(error):
        return OddQuoteError(
            f"the row that begins in line {line:,} has a field that begins with a quote, which is not closed at its end"
        )
    return ValueError(f"the row that begins in line {line:,} cannot be read: {error}")


def _check_header(names: Record) -> int:
    repeated = repeated_name(names)
    if repeated is not None:
        raise ValueError(f"two columns have the name {repeated!r}; rename or remove one")
    return len(names)


def _check_width(record: Sequence[str], width: int, line: int) -> None:
    if len(record) != width:
        raise ValueError(f"the row that begins in line {line:,} has {len(record)} fields, but the header has {width}")


def _typed(cells: Sequence[str], kind: pa.DataType) -> Sequence[Any]:
    converted = None if kind == pa.string() else _convert(cells, kind)
    return cells if converted is None else list(converted.to_pylist())


def _convert(cells: Sequence[str], kind: pa.DataType) -> pa.ChunkedArray | None:
    """Return the cells of a column as Arrow's CSV reader converts them to a type, or None where they do not fit."""
    content = pa.BufferOutputStream()
    pyarrow.csv.write_csv(pa.table({"cell": pa.array(cells, pa.string())}), content)
    options = pyarrow.csv.ConvertOptions(column_types={"cell": kind})
    parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
    written = content.getvalue()
    reading = pyarrow.csv.ReadOptions(block_size=max(1, written.size), use_threads=False)
    try:
        table = pyarrow.csv.read_csv(pa.BufferReader(written), reading, parsing, options)
    except pa.ArrowInvalid:
        return None
    return table.column(0)
