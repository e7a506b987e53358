"""Division of a run's units (prompts or questions) into shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stratoscope.errors import InputError
from stratoscope.results import Manifest, ShardStore

DEFAULT_SHARD_SIZE = 32
MAX_SHARDS = 1024
"""Maximum default number of shards. Each shard costs about 26 ms in the scheduler and adds files to the storage."""

BATCHES_PER_SHARD = 20
"""Batches per shard on a GPU. With fewer, the GPU would be idle between shards; with more, a lost node costs more."""
SHARD_BYTES = 512_000_000
"""Host memory for the statistics of a shard's units in a run on GPUs, until the shard's tables are written."""
SHARDS_PER_ACTOR = 4
"""Minimum number of shards for each GPU actor, as long as each shard has a batch."""


@dataclass(frozen=True)
class ShardLayout:
    """Division of a run's units, in their seeded order, into shards of equal size except for the last."""

    num_units: int
    shard_size: int
    by_shard: bool = False
    """Whether statistics are stored per shard, not per unit."""

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_units // self.shard_size)


def default_shard_size(num_units: int, minimum: int = DEFAULT_SHARD_SIZE) -> int:
    """Return the size of a shard if the configuration gives none."""
    return max(minimum, -(-num_units // MAX_SHARDS))


@dataclass(frozen=True)
class GpuWork:
    """Work of a run on GPUs. It determines the shard size from the number of tokens."""

    tokens_per_unit: float
    """Mean number of tokens of a unit."""
    batch_tokens: int
    """Tokens of a batch."""
    batch_units: int
    """Maximum units of a batch."""
    num_actors: int
    unit_bytes: int = 0
    """Memory of a unit's statistics on the host."""

    def shard_size(self, num_units: int, *, merged: bool = False) -> int:
        """Return how many units a shard has.

        Units are in random order, so that shards with equal numbers of units have nearly equal numbers of tokens.

        Args:
            num_units: units of the run.
            merged: whether their statistics are merged immediately, and not kept for the shard's tables.
        """
        batch = min(self.batch_units, max(1, int(self.batch_tokens / self.tokens_per_unit)))
        fair = -(-num_units // (SHARDS_PER_ACTOR * self.num_actors))
        kept = num_units if merged or not self.unit_bytes else SHARD_BYTES // self.unit_bytes
        return default_shard_size(num_units, max(batch, min(BATCHES_PER_SHARD * batch, fair, kept)))


def recorded_layout(store: ShardStore, previous: Manifest | None, num_units: int) -> ShardLayout | None:
    """Return the layout of an earlier start of a run, or None if it finished no shard.

    Args:
        store: the shards of the run.
        previous: manifest of the earlier start.
        num_units: number of units of the run.

    Raises:
        InputError: there are finished shards, but the manifest does not record how the units were divided.
    """
    if not store.num_done():
        return None
    facts = previous.facts if previous else {}
    if "shard_size" not in facts:
        raise InputError(
            "the run has finished shards, but its manifest does not say how large they are; choose another run_id"
        )
    return ShardLayout(num_units, int(facts["shard_size"]), bool(facts.get("by_shard")))


class Shards(Sequence[pa.Table]):
    """Shards as tables of one row: `shard`, `start`, and the lists `prompt_id`, `group` and `text`.

    A table is built on access, from units that may be memory-mapped.

    Args:
        layout: the division into shards.
        units: columns prompt_id, group and text, in order.
        numbers: numbers of the shards.
    """

    def __init__(self, layout: ShardLayout, units: pa.Table, numbers: Sequence[int]) -> None:
        self._layout, self._units, self._numbers = layout, units, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        shard = self._numbers[index]
        start = shard * self._layout.shard_size
        part = self._units.slice(start, self._layout.shard_size)
        lists = {name: [part[name].to_pylist()] for name in ("prompt_id", "group", "text")}
        return pa.table({"shard": [shard], "start": [start], **lists})
