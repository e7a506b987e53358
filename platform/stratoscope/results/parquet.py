"""Reading and writing Parquet tables."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from stratoscope.results.storage import Storage

ROW_GROUP_SIZE = 20_000
"""Rows of a row group: the most that a reader of a large table holds at a time."""


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as the content of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def from_parquet(content: bytes) -> pa.Table:
    """Return the table in the content of a Parquet file."""
    return pq.read_table(pa.BufferReader(content))


def write_table(storage: Storage, name: str, table: pa.Table) -> None:
    """Write a table to `name`.parquet."""
    storage.write(f"{name}.parquet", to_parquet(table))


def read_table(storage: Storage, name: str) -> pa.Table:
    """Read the table `name`.parquet.

    Raises:
        FileNotFoundError: the table does not exist.
    """
    return from_parquet(storage.read(f"{name}.parquet"))


@contextmanager
def table_writer(storage: Storage, name: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that appends to the table `name`.parquet, which is written atomically once the block succeeds.

    A row group consists of whole parts, and has at least `ROW_GROUP_SIZE` rows.
    """
    with storage.atomic_file(f"{name}.parquet") as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
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


def iter_table(storage: Storage, name: str) -> Iterator[pa.Table]:
    """Yield the row groups of the table `name`.parquet.

    Raises:
        FileNotFoundError: the table does not exist.
    """
    with storage.open(f"{name}.parquet") as file:
        parquet = pq.ParquetFile(file)
        for index in range(parquet.num_row_groups):
            yield parquet.read_row_group(index)


def from_rows(rows: Iterable[Sequence[object]], schema: pa.Schema) -> pa.Table:
    """Return rows, each in order of the schema's columns, as a table."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
