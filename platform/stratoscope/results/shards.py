"""Partial results of a run: a set of files per shard, completed by a marker file."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stratoscope.results.parquet import from_parquet
from stratoscope.results.storage import Storage

FOLDER = "shards"


@dataclass(frozen=True)
class ShardResult:
    """The result of one shard."""

    shard: int
    files: dict[str, bytes]
    """Content of the Parquet files, by table."""
    counts: dict[str, Any]
    """Number of units in the shard, the resources that they took, and taps that could not be read, with the reason."""
    stored: bool = False
    """Whether the process that computed the result has stored it, so that `files` is empty."""


@dataclass(frozen=True)
class StoreOffer:
    """A store that other processes may write to, if they see the same files."""

    url: str
    """The run's folder."""
    sign: str
    """Name of a file in the store."""


class ShardStore:
    """The shards of a run in its folder. A shard is done once its completion marker exists, which is written last."""

    def __init__(self, run: Storage) -> None:
        self._run = run
        self._storage = run.child(FOLDER)

    def offer(self) -> StoreOffer:
        """Offer the store to other processes, on this node or others."""
        sign = f"{uuid.uuid4().hex}.offer"
        self._storage.write(sign, b"")
        return StoreOffer(self._run.url(), sign)

    @classmethod
    def accept(cls, offer: StoreOffer) -> "ShardStore | None":
        """Return the store of an offer, or None if this process does not see its files.

        A local path of another node may name another disk, and a node may lack the credentials of an object store.
        """
        try:
            store = cls(Storage(offer.url))
            return store if store._storage.exists(offer.sign) else None
        except Exception:  # file systems raise exceptions of their own
            return None

    def done(self) -> dict[int, dict[str, float]]:
        """Return the counts of every finished shard."""
        markers = [name for name in self._storage.names() if name.endswith(".json")]
        contents = self._storage.read_all(markers)
        return {int(name.removesuffix(".json")): json.loads(content) for name, content in contents.items()}

    def num_done(self) -> int:
        """Return the number of finished shards."""
        return sum(name.endswith(".json") for name in self._storage.names())

    def write(self, result: ShardResult) -> None:
        """Write a shard's files, then its completion marker."""
        for table, content in result.files.items():
            self._storage.write(f"{result.shard:06d}.{table}.parquet", content)
        self._storage.write(f"{result.shard:06d}.json", json.dumps(result.counts).encode())

    def read(self, table: str) -> Iterator[pa.Table]:
        """Yield the parts of a table in order of shards; finished shards without the table are skipped."""
        names = self._storage.names()
        done = {name.removesuffix(".json") for name in names if name.endswith(".json")}
        for name in names:
            shard, _, rest = name.partition(".")
            if rest == f"{table}.parquet" and shard in done:
                yield from_parquet(self._storage.read(name))

    def clear(self) -> None:
        """Remove all shards, once the run's tables hold their content."""
        self._run.remove(FOLDER)
