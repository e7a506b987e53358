"""Parquet tables as bytes and back."""

import io
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from stratoscope.results.storage import Storage


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
        FileNotFoundError: there is no such table.
    """
    return from_parquet(storage.read(f"{name}.parquet"))


def from_rows(rows: Iterable[Sequence[object]], schema: pa.Schema) -> pa.Table:
    """Return rows, each in order of the schema's columns, as a table."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
