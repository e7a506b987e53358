"""Rows of local JSON-lines, CSV, Parquet and text files, or of a folder of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from stratoscope.errors import InputError, first_line

Row = dict[str, Any]


def _json(path: Path) -> Iterator[Row]:
    yield from pyarrow.json.read_json(path).to_pylist()


def _csv(path: Path, delimiter: str = ",") -> Iterator[Row]:
    options = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    yield from pyarrow.csv.read_csv(path, parse_options=options).to_pylist()


def _tsv(path: Path) -> Iterator[Row]:
    return _csv(path, "\t")


def _parquet(path: Path) -> Iterator[Row]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def _text(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield {"text": line.rstrip("\n")}


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
    ".txt": _text,
}


def read_files(path: Path, field: str = "prompts.source") -> Iterator[Row]:
    """Yield the rows of a file, or of every readable file in a folder, in order of names.

    Args:
        path: file or folder.
        field: of the configuration that names it, for messages.

    Raises:
        InputError: there is no file of a known kind, or one cannot be read.
    """
    for file in _files(path, field):
        try:
            yield from READERS[file.suffix](file)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            kind = file.suffix[1:]
            raise InputError(f"{field}: {file} cannot be read as {kind}: {first_line(error)}") from error


def _files(path: Path, field: str) -> list[Path]:
    kinds = ", ".join(READERS)
    if path.is_file():
        if path.suffix not in READERS:
            raise InputError(f"{field} {str(path)!r}: files of kind {path.suffix!r} are not read, only {kinds}")
        return [path]
    found = sorted(file for file in path.rglob("*") if file.suffix in READERS and file.is_file())
    if not found:
        raise InputError(f"{field} {str(path)!r}: the folder holds no file of kind {kinds}")
    return found
