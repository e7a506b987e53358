"""Seeded order of any number of prompts, in bounded memory."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BATCH = 10_000
MEMORY_LIMIT = "512MB"
"""Memory limit of DuckDB, which spills to a temporary folder."""

PROMPTS = pa.schema([("prompt_id", pa.string()), ("group", pa.string()), ("text", pa.string())])
DISTINCT_IDS = """
UPDATE distinct_prompts SET prompt_id = left(md5(prompt_id || text), 16)
WHERE prompt_id IN (SELECT prompt_id FROM distinct_prompts GROUP BY prompt_id HAVING count(*) > 1)
"""
"""Rows that are equal as values, such as 1.50 and 1.5, have one id; if their texts differ, so do their new ids."""
_POSITIONED = PROMPTS.append(pa.field("position", pa.uint64()))


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt. Its id is a digest of the raw row, independent of the template.

    `order_prompts` gives prompts of different texts whose rows are equal as values ids of row and text.
    """

    prompt_id: str
    group: str
    text: str


@dataclass(frozen=True, eq=False)
class OrderedPrompts:
    """Distinct prompts in order, and the numbers of prompts that were read and dropped."""

    table: pa.Table
    """Columns of `PROMPTS`, memory-mapped from an unlinked file, so that its pages are loaded on use."""
    fingerprint: str
    """Digest of all prompts and their order."""
    num_read: int
    num_empty: int
    num_duplicates: int

    @property
    def num_over_limit(self) -> int:
        """Number of prompts that the limit leaves out."""
        return self.num_read - self.num_empty - self.num_duplicates - int(self.table.num_rows)


def order_prompts(prompts: Iterable[Prompt], limit: int | None, seed: int) -> OrderedPrompts:
    """Drop empty and duplicate prompts and order the rest by a seeded digest of their ids.

    The order does not depend on the order of the input, and a smaller limit keeps a prefix of a larger one. Of equal
    texts, the first in that order is kept. Memory is bounded for any number of prompts.

    Args:
        prompts: the rendered prompts.
        limit: largest number of prompts to keep; None keeps all.
        seed: seed of the order.
    """
    import duckdb

    with tempfile.TemporaryDirectory(prefix="stratoscope-") as folder:
        options = {"memory_limit": MEMORY_LIMIT, "temp_directory": folder, "threads": 2}
        with duckdb.connect(config=options) as database:  # type: ignore[arg-type]
            num_read, num_filled = _fill(database, prompts, seed)
            database.execute(
                'CREATE TABLE distinct_prompts AS SELECT prompt_id, "group", text, position FROM rendered '
                'QUALIFY row_number() OVER (PARTITION BY text ORDER BY position, prompt_id, "group") = 1'
            )
            database.execute("DROP TABLE rendered")
            database.execute(DISTINCT_IDS)
            num_distinct = database.table("distinct_prompts").shape[0]
            query = 'SELECT prompt_id, "group", text FROM distinct_prompts ORDER BY position, prompt_id'
            ordered = database.sql(query if limit is None else f"{query} LIMIT {limit:d}")
            table, fingerprint = _spool(ordered.to_arrow_reader(BATCH), Path(folder) / "prompts.arrow")
    return OrderedPrompts(table, fingerprint, num_read, num_read - num_filled, num_filled - num_distinct)


def _fill(database: "DuckDBPyConnection", prompts: Iterable[Prompt], seed: int) -> tuple[int, int]:
    """Insert all prompts that are not empty into the table `rendered`; return how many were read and inserted."""
    database.execute('CREATE TABLE rendered (prompt_id VARCHAR, "group" VARCHAR, text VARCHAR, position UBIGINT)')
    num_read = num_inserted = 0
    remaining = iter(prompts)
    while batch := list(islice(remaining, BATCH)):
        filled = [p for p in batch if p.text.strip()]
        num_read, num_inserted = num_read + len(batch), num_inserted + len(filled)
        columns = [
            [p.prompt_id for p in filled],
            [p.group for p in filled],
            [p.text for p in filled],
            [_position(seed, p.prompt_id) for p in filled],
        ]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, _POSITIONED, strict=True)]
        database.register("batch", pa.Table.from_arrays(arrays, schema=_POSITIONED))
        database.execute("INSERT INTO rendered SELECT * FROM batch")
        database.unregister("batch")
    return num_read, num_inserted


def _position(seed: int, prompt_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{prompt_id}".encode(), digest_size=16).digest()[:8], "big")


def _spool(batches: Iterable[pa.RecordBatch], path: Path) -> tuple[pa.Table, str]:
    """Write batches to a file and return them memory-mapped, with their digest."""
    fingerprint = hashlib.blake2b(digest_size=16)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, PROMPTS) as writer:
        for batch in batches:
            for row in _rows(batch):
                fingerprint.update(json.dumps(row, ensure_ascii=False).encode())
            writer.write_batch(batch.cast(PROMPTS))
    with pa.memory_map(str(path)) as mapped:
        return pa.ipc.open_file(mapped).read_all(), fingerprint.hexdigest()


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[str, ...]]:
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)
