"""Division of a run's units, prompts or questions, into shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

DEFAULT_SHARD_SIZE = 32
MAX_SHARDS = 1024
"""Maximum number of shards by default: each costs the scheduler some 26 ms, and files in the storage."""


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
