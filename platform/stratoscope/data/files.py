"""Readers of local JSON, CSV, TSV, Parquet, Arrow and text files, compressed or not, and of folders of them."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pyarrow as pa
import pyarrow.parquet

from stratoscope.data.delimited import DelimitedFile, OddQuoteError, Quoting, is_quoted
from stratoscope.data.encoding import COMPRESSIONS, find_undecodable, open_binary, open_text, without_marks
from stratoscope.data.json_rows import read_json
from stratoscope.data.rows import SourceRow, repeated_name
from stratoscope.errors import InputError, first_line

_BATCH_ROWS = 4096
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class FileReading:
    """How files are read where their content leaves it open."""

    encoding: str | None = None
    """Encoding of text files; None detects UTF-8 and UTF-16, and refuses others."""
    quoting: Quoting = "auto"
    """Whether quotes enclose fields of CSV and TSV files."""


def _json(path: Path, reading: FileReading) -> Iterator[SourceRow]:
    return read_json(path, reading.encoding)


def _csv(path: Path, reading: FileReading, delimiter: str = ",") -> Iterator[SourceRow]:
    quoted = is_quoted(path, reading.encoding, reading.quoting, delimiter)
    return DelimitedFile(path, delimiter, reading.encoding, quoted).rows()


def _tsv(path: Path, reading: FileReading) -> Iterator[SourceRow]:
    return _csv(path, reading, "\t")


def _parquet(path: Path, reading: FileReading) -> Iterator[SourceRow]:  # noqa: ARG001 - the readers have one signature
    with _seekable(path) as content, pyarrow.parquet.ParquetFile(content) as file:
        _check_names(file.schema_arrow)
        for batch in file.iter_batches(_BATCH_ROWS):
            yield from map(SourceRow, batch.to_pylist())


def _arrow(path: Path, reading: FileReading) -> Iterator[SourceRow]:  # noqa: ARG001
    with _seekable(path) as content:
        for batch in _arrow_batches(content):
            _check_names(batch.schema)
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                yield from map(SourceRow, batch.slice(start, _BATCH_ROWS).to_pylist())


def _arrow_batches(content: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """Yield the batches of Arrow's file format, or of its stream format."""
    try:
        file = pa.ipc.open_file(content)
    except pa.ArrowInvalid:
        content.seek(0)
        yield from pa.ipc.open_stream(content)
    else:
        yield from (file.get_batch(i) for i in range(file.num_record_batches))


def _text(path: Path, reading: FileReading) -> Iterator[SourceRow]:
    with open_text(path, reading.encoding) as file:
        for line in without_marks(file):
            yield SourceRow({"text": line.rstrip("\n")})


READERS: dict[str, Callable[[Path, FileReading], Iterator[SourceRow]]] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _text,
}


def read_files(path: Path, field: str = "prompts.source", reading: FileReading | None = None) -> Iterator[SourceRow]:
    """Yield the rows of a file, or of every readable file in a folder in the order of their names.

    Args:
        path: file or folder.
        field: the configuration field that names it, for messages.
        reading: how files are read where their content leaves it open.

    Raises:
        InputError: there is no file of a known kind, or a file cannot be read.
    """
    reading = reading or FileReading()
    section = field.partition(".")[0]
    for file in _files(path, field):
        kind = _kind(file)
        try:
            yield from READERS[kind](file, reading)
        except UnicodeError as error:
            reason = find_undecodable(file, reading.encoding) or first_line(error)
            raise InputError(
                f"{field}: {file}: {reason}; name the encoding with {section}.encoding, such as cp1252"
            ) from error
        except OddQuoteError as error:
            raise InputError(
                f"{field}: {file}: {error}; write quotes inside a field twice, or set {section}.quoting never if "
                "quotes are text"
            ) from error
        except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error) as error:
            raise InputError(f"{field}: {file} cannot be read as {kind[1:]}: {first_line(error)}") from error


def source_stem(source: str) -> str:
    """Return the last part of a source's name, without file suffixes."""
    path = Path(source)
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem


def _kind(path: Path) -> str:
    """Return the suffix of a file's kind, before that of its compression."""
    name = path.name.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def _files(path: Path, field: str) -> list[Path]:
    suffixes = ", ".join(READERS)
    if path.is_file():
        if _kind(path) not in READERS:
            raise InputError(
                f"{field} {str(path)!r}: files of kind {_kind(path)!r} cannot be read; use one of {suffixes}"
            )
        return [path]
    files = sorted(file for file in path.rglob("*") if _kind(file) in READERS and file.is_file())
    if not files:
        raise InputError(f"{field} {str(path)!r}: the folder contains no file of the kinds {suffixes}")
    return files


def _check_names(schema: pa.Schema) -> None:
    repeated = repeated_name(schema.names)
    if repeated is not None:
        raise ValueError(f"two columns have the name {repeated!r}; rename or remove one")


@contextmanager
def _seekable(path: Path) -> Iterator[IO[bytes]]:
    """Open a seekable binary file; a compressed file is unpacked to a temporary one."""
    with open_binary(path) as content:
        if path.suffix.lower() not in COMPRESSIONS:
            yield content
            return
        with TemporaryFile(prefix="stratoscope-") as unpacked:
            while block := content.read(_COPY_BYTES):
                unpacked.write(block)
            unpacked.seek(0)
            yield unpacked
