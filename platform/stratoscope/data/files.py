"""Readers of local JSON-lines, CSV, TSV, Parquet and text files, and of folders of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from stratoscope.errors import InputError, first_line

SourceRow = dict[str, Any]
"""Raw row of a source: its columns by name."""


def _json(path: Path) -> Iterator[SourceRow]:
    yield from pyarrow.json.read_json(path).to_pylist()


def _csv(path: Path, delimiter: str = ",") -> Iterator[SourceRow]:
    options = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    yield from pyarrow.csv.read_csv(path, parse_options=options).to_pylist()


def _tsv(path: Path) -> Iterator[SourceRow]:
    return _csv(path, "\t")


def _parquet(path: Path) -> Iterator[SourceRow]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _text(path: Path) -> Iterator[SourceRow]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield {"text": line.rstrip("\n")}


READERS: dict[str, Callable[[Path], Iterator[SourceRow]]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _text,
}


def read_files(path: Path, field: str = "prompts.source") -> Iterator[SourceRow]:
    """Yield the rows of a file, or of every readable file in a folder in the order of their names.

    Args:
        path: file or folder.
        field: the configuration field that names it, for messages.

    Raises:
        InputError: there is no file of a known kind, or a file cannot be read.
    """
    for file in _files(path, field):
        try:
            yield from READERS[file.suffix](file)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            kind = file.suffix[1:]
            raise InputError(f"{field}: {file} cannot be read as {kind}: {first_line(error)}") from error


def _files(path: Path, field: str) -> list[Path]:
    suffixes = ", ".join(READERS)
    if path.is_file():
        if path.suffix not in READERS:
            raise InputError(
                f"{field} {str(path)!r}: files of kind {path.suffix!r} cannot be read; use one of {suffixes}"
            )
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in READERS and file.is_file())
    if not files:
        raise InputError(f"{field} {str(path)!r}: the folder contains no file of the kinds {suffixes}")
    return files
