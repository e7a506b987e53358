"""Reading and writing Parquet tables."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stratoscope.arrow import arrow_reader
from stratoscope.errors import DamagedFileError
from stratoscope.results.storage import Storage

ROW_GROUP_SIZE = 20_000
"""Smallest number of rows of a row group, except the last; a reader of a large table holds one row group at a time."""


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as the content of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def from_parquet(content: bytes) -> pa.Table:
    """Return the table in the content of a Parquet file."""
    return pq.ParquetFile(arrow_reader(content), page_checksum_verification=True).read()


def write_table(storage: Storage, name: str, table: pa.Table) -> None:
    """Write a table to `name`.parquet."""
    storage.write(f"{name}.parquet", to_parquet(table))


def read_table(storage: Storage, name: str) -> pa.Table:
    """Read the table `name`.parquet.

    Raises:
        FileNotFoundError: the table does not exist.
        DamagedFileError: it cannot be read.
    """
    return read_parquet(storage, f"{name}.parquet")


def read_parquet(storage: Storage, file: str) -> pa.Table:
    """Read a Parquet file.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedFileError: it cannot be read.
    """
    content = storage.read(file)
    with _named_if_damaged(storage, file):
        return from_parquet(content)


@contextmanager
def _named_if_damaged(storage: Storage, file: str) -> Iterator[None]:
    """Name the file in errors of Arrow, which are of several types, OSError and ValueError among them."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError | DamagedFileError):
            raise
        raise DamagedFileError(storage.url(file), error) from error


def damaged_table(storage: Storage) -> str | None:
    """Return the first table of a run's folder whose beginning or end cannot be read, as a path or URL, or None.

    A truncated file has no end. Whether the rest is intact is checked when the table is read.
    """
    for name in storage.names():
        if name.endswith(".parquet") and not name.startswith("."):
            try:
                with storage.open(name) as file:
                    pq.ParquetFile(file)
            except (pa.ArrowException, OSError, ValueError):
                return storage.url(name)
    return None


@contextmanager
def table_writer(storage: Storage, name: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends to the table `name`.parquet, which is written atomically once the block succeeds.

    A row group consists of whole parts and has at least `ROW_GROUP_SIZE` rows, except for the last one.
    """
    with storage.atomic_file(f"{name}.parquet") as path, _writer(path, schema) as writer:
        buffered: list[pa.Table] = []

        def flush() -> None:
            if buffered:
                table = pa.concat_tables(buffered)
                writer.write_table(table, row_group_size=table.num_rows)
                buffered.clear()

        def append(part: pa.Table) -> None:
            buffered.append(part)
            if sum(table.num_rows for table in buffered) >= ROW_GROUP_SIZE:
                flush()

        yield append
        flush()


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def iter_table(storage: Storage, name: str) -> Iterator[pa.Table]:
    """Yield the row groups of the table `name`.parquet.

    Raises:
        FileNotFoundError: the table does not exist.
        DamagedFileError: it cannot be read.
    """
    file_name = f"{name}.parquet"
    with storage.open(file_name) as file:
        with _named_if_damaged(storage, file_name):
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
        for index in range(parquet.num_row_groups):
            with _named_if_damaged(storage, file_name):
                group = parquet.read_row_group(index)
            yield group


def from_rows(rows: Iterable[Sequence[object]], schema: pa.Schema) -> pa.Table:
    """Return rows, each in order of the schema's columns, as a table."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
