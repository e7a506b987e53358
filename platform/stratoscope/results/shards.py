"""Partial results of a run: a set of files per shard, completed by a marker file."""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stratoscope.digest import content_digest
from stratoscope.errors import DamagedFileError
from stratoscope.phases import tell
from stratoscope.results.parquet import from_parquet, read_parquet
from stratoscope.results.storage import Storage

FOLDER = "shards"
DIGESTS = "digests"
"""Key under which a marker stores the digest of each file of the shard."""
AGAIN = "the rest of the run stands"


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
    """The shards of a run in its folder. A shard is done once its completion marker exists, which is written last.

    The marker holds the digest of each file, so that a shard with a damaged file is computed again.
    """

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
        """Return the counts of every finished shard, and remove the markers of shards that cannot be read."""
        names = self._storage.names()
        done = {}
        for marker in (name for name in names if name.endswith(".json")):
            shard = marker.removesuffix(".json")
            try:
                done[int(shard)] = self._counts(shard, names)
            except (DamagedFileError, FileNotFoundError) as error:
                tell(f"{error}; shard {int(shard)} is computed again")
                self._storage.remove(marker)
        return done

    def _counts(self, shard: str, names: Sequence[str]) -> dict[str, Any]:
        """Return the counts of a finished shard.

        Raises:
            DamagedFileError: its marker or one of its files cannot be read.
        """
        counts, digests = self._read_marker(shard)
        files = [name for name in names if name.startswith(f"{shard}.") and name.endswith(".parquet")]
        # Version 0.1.0 wrote no digests.
        for file in files if digests is None else [f"{shard}.{table}.parquet" for table in digests]:
            content = self._storage.read(file)
            if digests is None:
                _check_parquet(self._storage.url(file), content)
            elif content_digest(content) != digests[file.split(".")[1]]:
                raise DamagedFileError(self._storage.url(file), "its digest is another", AGAIN)
        return counts

    def _read_marker(self, shard: str) -> tuple[dict[str, Any], dict[str, str] | None]:
        """Return the counts in a shard's marker, and the digest of each of its tables; None if it has no digests.

        Raises:
            DamagedFileError: the marker cannot be read.
        """
        marker = f"{shard}.json"
        try:
            counts: dict[str, Any] = json.loads(self._storage.read(marker))
            return counts, counts.pop(DIGESTS, None)
        except (ValueError, TypeError, AttributeError) as error:
            raise DamagedFileError(self._storage.url(marker), error, AGAIN) from error

    def num_done(self) -> int:
        """Return the number of finished shards."""
        return sum(name.endswith(".json") for name in self._storage.names())

    def write(self, result: ShardResult) -> None:
        """Write a shard's files, then its completion marker."""
        for table, content in result.files.items():
            self._storage.write(f"{result.shard:06d}.{table}.parquet", content)
        digests = {table: content_digest(content) for table, content in result.files.items()}
        self._storage.write(f"{result.shard:06d}.json", json.dumps({**result.counts, DIGESTS: digests}).encode())

    def read(self, table: str) -> Iterator[pa.Table]:
        """Yield the parts of a table in order of shards; finished shards without the table are skipped.

        A file that a shard's marker does not list was left by an attempt that did not finish, and is skipped too.
        """
        names = self._storage.names()
        for marker in (name for name in names if name.endswith(".json")):
            shard = marker.removesuffix(".json")
            _, digests = self._read_marker(shard)
            file = f"{shard}.{table}.parquet"
            if table in digests if digests is not None else file in names:
                yield read_parquet(self._storage, file)

    def clear(self) -> None:
        """Remove all shards, once the run's tables hold their content."""
        self._run.remove(FOLDER)


def _check_parquet(file: str, content: bytes) -> None:
    try:
        from_parquet(content)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFileError(file, error, AGAIN) from error
