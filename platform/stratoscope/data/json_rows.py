"""Rows of JSON files: objects one after the other, as in JSON lines, or an array of objects.

The types of columns are those that Arrow's JSON reader infers from the whole file, since they identify rows. Arrow
itself keeps all rows in memory, and takes neither arrays, nor lines longer than a block, nor columns that change type.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from stratoscope.arrow import arrow_reader
from stratoscope.data.encoding import BYTE_ORDER_MARK, open_text
from stratoscope.data.rows import SourceRow, parse_float, repeated_name

MAX_FIELDS = 1000
"""Largest number of fields, over all levels, for which the columns of a file get common types."""
_READ_CHARACTERS = 1 << 20
_BLOCK_DOCUMENTS, _BLOCK_CHARACTERS = 4096, 1 << 23
_LONGEST_TOKEN = 16
"""Number of characters before the end within which a decoder reports an error about a token that is cut off."""
_SPACE = f" \t\r\n{BYTE_ORDER_MARK}"


@dataclass(frozen=True)
class _Document:
    """One object of a file."""

    value: dict[str, Any]
    text: str


@dataclass
class _Columns:
    """Columns of a file."""

    names: dict[str, None] = field(default_factory=dict)
    """Names in order of appearance."""
    schema: pa.Schema | None = field(default_factory=lambda: pa.schema([]))
    """Types of the columns; None if a column changes its type, so that rows have their own."""

    def fill(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return an object with None for the columns that it lacks."""
        if len(value) == len(self.names) or len(self.names) > MAX_FIELDS:
            return value
        return {name: value.get(name) for name in self.names}


class _VariedTypesError(Exception):
    """Raised where values of a column have no common type."""


def read_json(path: Path, encoding: str | None) -> Iterator[SourceRow]:
    """Yield the rows of a JSON file; it is read twice, first for the names and types of its columns.

    Args:
        path: the file.
        encoding: as in `open_text`.

    Raises:
        ValueError: the content is not JSON, or not objects.
    """
    columns = _infer_columns(path, encoding)
    for block in _blocks(path, encoding):
        values = [document.value for document in block]
        typed = values if columns.schema is None else _read_block(block, columns.schema).to_pylist()
        yield from map(SourceRow, typed, map(columns.fill, values))


def _infer_columns(path: Path, encoding: str | None) -> _Columns:
    columns = _Columns()
    for block in _blocks(path, encoding):
        for document in block:
            columns.names.update(dict.fromkeys(document.value))
        if columns.schema is not None:
            try:
                columns.schema = _merge_schemas(columns.schema, _read_block(block).schema)
            except (_VariedTypesError, pa.ArrowInvalid):
                columns.schema = None
    return columns


def _read_block(block: list[_Document], schema: pa.Schema | None = None) -> pa.Table:
    content = "\n".join(document.text for document in block).encode()
    return pyarrow.json.read_json(
        arrow_reader(content),
        pyarrow.json.ReadOptions(block_size=len(content) + 1, use_threads=False),
        pyarrow.json.ParseOptions(explicit_schema=schema),
    )


def _merge_schemas(a: pa.Schema, b: pa.Schema) -> pa.Schema:
    merged = _merge_types(pa.struct(list(a)), pa.struct(list(b)))
    if _num_fields(merged) > MAX_FIELDS:
        raise _VariedTypesError
    return pa.schema(list(merged))


def _num_fields(kind: pa.DataType) -> int:
    return 1 + sum(_num_fields(kind.field(i).type) for i in range(kind.num_fields))


def _merge_types(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """Return the type that Arrow's JSON reader gives to values of both types."""
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        fields = {f.name: f.type for f in a}
        for f in b:
            fields[f.name] = _merge_types(fields[f.name], f.type) if f.name in fields else f.type
        return pa.struct(list(fields.items()))
    if pa.types.is_list(a) and pa.types.is_list(b):
        return pa.list_(_merge_types(a.value_type, b.value_type))
    for wide, kinds in ((pa.float64(), {pa.int64()}), (pa.string(), {pa.timestamp("s")})):
        if {a, b} <= kinds | {wide}:
            return wide
    raise _VariedTypesError


def _blocks(path: Path, encoding: str | None) -> Iterator[list[_Document]]:
    """Yield lists of documents, of bounded size."""
    block: list[_Document] = []
    size = 0
    with open_text(path, encoding, newline="") as stream:
        for document in _Scanner(stream).documents():
            block.append(document)
            size += len(document.text)
            if len(block) == _BLOCK_DOCUMENTS or size > _BLOCK_CHARACTERS:
                yield block
                block, size = [], 0
    if block:
        yield block


class _Scanner:
    """Reads JSON objects from a stream; only the current object and the next characters are in memory."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream
        self._buffer, self._position, self._ended = "", 0, False
        self._line = 1
        """Line of the start of the buffer."""
        self._decoder = json.JSONDecoder(object_pairs_hook=_make_object, parse_float=parse_float)

    def documents(self) -> Iterator[_Document]:
        """Yield all objects of the stream.

        Raises:
            ValueError: the content is not JSON, or not objects.
        """
        in_array = self._peek() == "["
        if in_array:
            self._position += 1
        while (character := self._peek()) and not (in_array and character == "]"):
            yield self._next_document()
            if in_array:
                self._pass_comma()
        if in_array:
            self._end_array()

    def _peek(self) -> str:
        """Return the next character that is not white space, or nothing at the end."""
        while True:
            while self._position < len(self._buffer) and self._buffer[self._position] in _SPACE:
                self._position += 1
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        """Read as many characters as are left in the buffer, and at least a block; return whether there were any."""
        self._line += self._buffer.count("\n", 0, self._position)
        rest = self._buffer[self._position :]
        more = self._stream.read(max(_READ_CHARACTERS, len(rest)))
        self._buffer, self._position, self._ended = rest + more, 0, not more
        return bool(more)

    def _next_document(self) -> _Document:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                if self._is_cut_off(error) and self._read_more():
                    continue
                line = self._line_of(self._position)
                raise ValueError(f"the object that begins in line {line:,} is not JSON: {error.msg}") from error
            except RecursionError as error:
                raise ValueError(f"line {self._line_of(self._position):,} is nested too deeply") from error
            except ValueError as error:
                raise ValueError(f"line {self._line_of(self._position):,}: {error}") from error
            text = self._buffer[self._position : end]
            self._check(value, text)
            self._position = end
            return _Document(value, text)

    def _is_cut_off(self, error: json.JSONDecodeError) -> bool:
        near_end = error.pos >= len(self._buffer) - _LONGEST_TOKEN
        return not self._ended and (near_end or error.msg.startswith("Unterminated string"))

    def _check(self, value: Any, text: str) -> None:
        if not isinstance(value, dict):
            kind = type(value).__name__
            raise ValueError(f"line {self._line_of(self._position):,} has a {kind} instead of an object with columns")
        if "\\ud" in text or "\\uD" in text:
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                line = self._line_of(self._position)
                raise ValueError(f"line {line:,} has half of a surrogate pair, which is no character") from error

    def _line_of(self, position: int) -> int:
        return self._line + self._buffer.count("\n", 0, position)

    def _pass_comma(self) -> None:
        character = self._peek()
        if character == ",":
            self._position += 1
            if self._peek() != "]":
                return
        elif character in ("]", ""):
            return
        raise ValueError(f"line {self._line_of(self._position):,} is not JSON: a comma between objects is expected")

    def _end_array(self) -> None:
        if not self._peek():
            raise ValueError("the array of objects has no end; the file was cut off")
        self._position += 1
        if self._peek():
            raise ValueError(f"line {self._line_of(self._position):,} is not JSON: there is more after the array")


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError(f"two columns have the name {repeated_name(name for name, _ in pairs)!r}")
    return made
