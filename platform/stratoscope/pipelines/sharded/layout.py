"""How the units of a run, prompts or questions, are cut into shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

USUAL_SHARD = 32
MOST_SHARDS = 1024
"""Of shards that are sized by themselves: each takes the scheduler some 26 ms, and its files on the storage."""


@dataclass(frozen=True)
class ShardLayout:
    """The cut of a run's units, in their seeded order, into shards of equal size but for the last."""

    num_units: int
    shard_size: int
    by_shard: bool = False
    """Statistics are kept per shard, not per unit."""

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_units // self.shard_size)


def usual_size(num_units: int, usual: int = USUAL_SHARD) -> int:
    """Return the size of a shard where nobody has asked for one."""
    return max(usual, -(-num_units // MOST_SHARDS))


class Shards(Sequence[pa.Table]):
    """Chosen shards as tables of one row: `shard`, `start`, and the lists `prompt_id`, `group` and `text`.

    Each is made when it is asked for, from units that may be mapped from a file.

    Args:
        layout: the cut.
        units: columns prompt_id, group and text, in order.
        chosen: numbers of the shards.
    """

    def __init__(self, layout: ShardLayout, units: pa.Table, chosen: Sequence[int]) -> None:
        self._layout, self._units, self._chosen = layout, units, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        shard = self._chosen[index]
        start = shard * self._layout.shard_size
        part = self._units.slice(start, self._layout.shard_size)
        lists = {name: [part[name].to_pylist()] for name in ("prompt_id", "group", "text")}
        return pa.table({"shard": [shard], "start": [start], **lists})
