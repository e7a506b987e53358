"""Text files with a delimiter: encoding, delimiter, header and rows."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from stratoscope.arrow import arrow_reader
from stratoscope.data.series.numerals import MISSING_MARKS, PLAIN_NUMBER
from stratoscope.data.series.source import Delimiter, Reading, clip, counted
from stratoscope.data.series.table import SourceTable
from stratoscope.data.series.times import form_of

CHARACTERS: dict[Delimiter, str] = {"tab": "\t", "semicolon": ";", "pipe": "|", "comma": ",", "space": " "}
"""Delimiters in the order in which they are tried; the comma comes late, since it may be a decimal mark."""
SAMPLE = 50
"""Number of lines from which the delimiter and the header are recognised."""
BYTE_ORDER_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
NUMBER = re.compile(r"[+-]?[\d.,' \u00a0\u202f]*\d[\d.,]*([eE][+-]?\d+)?\s*%?")
CellKind = Literal["number", "time", "text", "missing"]


@dataclass(frozen=True)
class _Lines:
    """Lines of a file that are not blank."""

    texts: list[str]
    numbers: list[int]
    """Number of each line in the file, from 1."""


def read_delimited(path: Path, reading: Reading) -> SourceTable:
    """Read a text file as columns of text.

    Raises:
        InputError: the encoding is unknown, or lines have different numbers of cells.
    """
    lines = _split_lines(_decode(path, reading))
    if not lines.texts:
        raise reading.refusal("the file is empty")
    lines, delimiter = _delimiter(lines, reading)
    lines = _without_blank_rows(lines, delimiter, reading)
    _check_quotes(lines, reading)
    if len(lines.texts) < 2 and reading.source.header != "no":
        raise reading.refusal(f"holds no rows, but the line {clip(lines.texts[0])!r}")
    columns = _parse(lines, delimiter, reading)
    return _with_header(columns, lines, reading)


def _decode(path: Path, reading: Reading) -> str:
    with pa.input_stream(str(path), compression="detect") as stream:
        content = bytes(stream.read())
    encoding = reading.source.encoding
    if encoding is None:
        marks = (name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark))
        encoding = next(marks, "utf-8")
        if encoding == "utf-16":
            reading.note("the file is encoded in UTF-16")
    if b"\0" in content and encoding == "utf-8":
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise reading.refusal(
            f"byte 0x00 in line {line} is no text; if the file is encoded in UTF-16, set series.encoding to utf-16-le "
            "or utf-16-be"
        )
    try:
        return content.decode(encoding)
    except LookupError:
        raise reading.refusal(f"series.encoding {encoding!r} is no encoding that Python knows") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise reading.refusal(
            f"byte 0x{content[error.start]:02x} in line {line} is not {encoding}; name the encoding with "
            "series.encoding, such as latin-1, utf-16-le or cp1252"
        ) from None


def _split_lines(text: str) -> _Lines:
    numbered = [(line, number) for number, line in enumerate(re.split("\r\n|\n|\r", text), 1) if line.strip()]
    return _Lines([line for line, _ in numbered], [number for _, number in numbered])


def _delimiter(lines: _Lines, reading: Reading) -> tuple[_Lines, str]:
    """Return the lines and their delimiter; a first line such as 'sep=;', which Excel writes, names it."""
    named = re.fullmatch(r'"?sep=(.)"?', lines.texts[0].strip())
    if named:
        return _Lines(lines.texts[1:], lines.numbers[1:]), named[1]
    option = reading.source.delimiter
    character = CHARACTERS[option] if option != "auto" else _recognised_delimiter(lines.texts)
    if character == " ":
        return _Lines([re.sub(r"[ \t]+", " ", line.strip()) for line in lines.texts], lines.numbers), character
    if option == "auto" and character not in ",\t":
        reading.note(f"the delimiter is {character!r}")
    return lines, character


def _recognised_delimiter(lines: Sequence[str]) -> str:
    sample = [re.sub(r'"[^"]*"', "", line) for line in (*lines[:SAMPLE], lines[-1])]
    for character in CHARACTERS.values():
        counts = {line.count(character) for line in sample}
        if character != " " and len(counts) == 1 and counts != {0}:
            return character
    return ","


def _without_blank_rows(lines: _Lines, delimiter: str, reading: Reading) -> _Lines:
    blank = f'{delimiter}" '
    if delimiter == " " or all(line.strip(blank) for line in lines.texts):
        return lines
    kept = [(line, number) for line, number in zip(lines.texts, lines.numbers, strict=True) if line.strip(blank)]
    reading.note(f"{counted(len(lines.texts) - len(kept), 'line')} of empty cells left out")
    return _Lines([line for line, _ in kept], [number for _, number in kept])


def _check_quotes(lines: _Lines, reading: Reading) -> None:
    for line, number in zip(lines.texts, lines.numbers, strict=True):
        if line.count('"') % 2:
            raise reading.refusal(f"line {number} has an odd number of quotation marks: {clip(line)!r}")


def _parse(lines: _Lines, delimiter: str, reading: Reading) -> list[Any]:
    """Return columns of text; the first cell of each column comes from the first line."""
    number = len(next(csv.reader(lines.texts[:1], delimiter=delimiter)))
    uneven: list[tuple[int, int]] = []

    def skip(row: Any) -> str:
        uneven.append((row.number, row.actual_columns))
        return "skip"

    content = "\n".join(lines.texts).encode()
    table = pyarrow.csv.read_csv(
        arrow_reader(content),
        read_options=pyarrow.csv.ReadOptions(
            autogenerate_column_names=True, use_threads=False, block_size=max(1 << 20, 2 * max(map(len, lines.texts)))
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, invalid_row_handler=skip),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={f"f{i}": pa.string() for i in range(number)}, strings_can_be_null=False
        ),
    )
    if uneven or table.num_columns != number:
        raise _uneven_refusal(lines, uneven, number, delimiter, reading)
    return [pc.utf8_trim_whitespace(column.combine_chunks()) for column in table.columns]


def _uneven_refusal(
    lines: _Lines, uneven: list[tuple[int, int]], number: int, delimiter: str, reading: Reading
) -> Exception:
    row, cells = uneven[0] if uneven else (1, number)
    return reading.refusal(
        f"line {lines.numbers[row - 1]} has {cells:,} cells, but line {lines.numbers[0]} has {number:,} (delimiter "
        f"{delimiter!r}): {clip(lines.texts[row - 1])!r}; correct the line, or set series.delimiter or series.decimal"
    )


def _with_header(columns: Sequence[Any], lines: _Lines, reading: Reading) -> SourceTable:
    option = reading.source.header
    header = has_header(columns) if option == "auto" else option == "yes"
    if header:
        _note_numbers(columns, reading)
        names = [column[0].as_py() or f"Unnamed: {number}" for number, column in enumerate(columns)]
        columns = [column[1:] for column in columns]
    else:
        names = [f"c{number}" for number in range(1, len(columns) + 1)]
        reading.note(f"the file has no header; columns are called {names[0]} to {names[-1]}")
    rows = np.array(lines.numbers[1 if header else 0 :], dtype=np.int64)
    repeated = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if repeated is not None:
        raise reading.refusal(f"two columns are called {clip(repeated)!r}; rename one")
    return SourceTable(dict(zip(names, columns, strict=True)), rows, "line")


def _note_numbers(columns: Sequence[Any], reading: Reading) -> None:
    if all(cell_kind(column[0].as_py()) in ("number", "missing") for column in columns):
        reading.note(
            "the numbers in the first line are taken as names of columns (series.header no takes them as values)"
        )


def has_header(columns: Sequence[Any]) -> bool:
    """Return whether the first cells of columns of text name the columns.

    Column names may be numbers: for a table without column names, pandas writes 0, 1, 2.
    """
    firsts = [column[0].as_py() for column in columns]
    kinds = [cell_kind(cell) for cell in firsts]
    below = [_common_kind(column[1 : SAMPLE + 1].to_pylist()) for column in columns]
    pairs = list(zip(kinds, below, strict=True))
    if ("time", "time") in pairs:
        return False
    if "text" in kinds:
        return any(kind == "text" and other != "text" for kind, other in pairs) or set(below) == {"text"}
    return _counts(firsts)


def _counts(cells: Sequence[str]) -> bool:
    """Return whether cells are 0, 1, 2 and so on, after an empty one if there is an index."""
    numbers = cells[1:] if cells[0] == "" else cells
    return len(numbers) > 1 - (cells[0] == "") and list(numbers) == [str(number) for number in range(len(numbers))]


def _common_kind(cells: Sequence[str]) -> CellKind:
    kinds = [cell_kind(cell) for cell in cells]
    known: list[CellKind] = [kind for kind in kinds if kind != "missing"]
    return max(set(known), key=known.count) if known else "missing"


def cell_kind(cell: str) -> CellKind:
    """Return whether a cell looks like a number, a time, a missing value or other text."""
    if PLAIN_NUMBER.fullmatch(cell):
        return "number"
    if cell.lower() in MISSING_MARKS:
        return "missing"
    if form_of(cell) is not None:
        return "time"
    return "number" if NUMBER.fullmatch(cell) else "text"
