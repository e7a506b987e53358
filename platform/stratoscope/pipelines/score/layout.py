"""How the prompts of a run are cut into shards, and what is kept of them: fixed before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stratoscope.errors import InputError
from stratoscope.pipelines.score.config import ScoreConfig

USUAL_SHARD = 32
MOST_SHARDS = 1024
"""Of shards that are sized by themselves: each takes the scheduler some 26 ms, and its files on the storage."""
FEWEST_MERGED_SHARDS = 50
"""A bootstrap over fewer shards says little."""


@dataclass(frozen=True)
class Layout:
    """The cut of a run's prompts, in their seeded order, into shards of equal size but for the last."""

    num_prompts: int
    shard_size: int
    by_shard: bool
    """Statistics are kept per shard, not per prompt."""

    @classmethod
    def of(cls, config: ScoreConfig, num_prompts: int, rows_per_prompt: int) -> "Layout":
        """Lay out a run.

        Args:
            config: the run's configuration.
            num_prompts: how many prompts there are.
            rows_per_prompt: rows of statistics and of spans for each of them.

        Raises:
            InputError: statistics are to be kept by shard, and there would be too few shards.
        """
        keep, given = config.statistics.keep, config.batching.shard_size
        by_shard = keep == "shard" or (keep == "auto" and num_prompts * rows_per_prompt > config.statistics.max_rows)
        size = given or max(USUAL_SHARD, -(-num_prompts // MOST_SHARDS))
        if not by_shard:
            return cls(num_prompts, size, by_shard)
        largest = num_prompts // FEWEST_MERGED_SHARDS
        if largest == 0:
            raise InputError(
                f"statistics.keep shard needs at least {FEWEST_MERGED_SHARDS} prompts, not {num_prompts}; keep prompt"
            )
        if given is not None and -(-num_prompts // given) < FEWEST_MERGED_SHARDS:
            raise InputError(
                f"batching.shard_size {given} makes fewer than {FEWEST_MERGED_SHARDS} shards of {num_prompts} prompts, "
                f"too few for intervals over shards; give at most {largest}"
            )
        return cls(num_prompts, given or min(size, largest), by_shard)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_prompts // self.shard_size)


class Shards(Sequence[pa.Table]):
    """Chosen shards as tables of one row: `shard`, `start`, and the lists `prompt_id`, `group` and `text`.

    Each is made when it is asked for, from prompts that are mapped from a file.

    Args:
        layout: the cut.
        prompts: columns prompt_id, group and text, in order.
        chosen: numbers of the shards.
    """

    def __init__(self, layout: Layout, prompts: pa.Table, chosen: Sequence[int]) -> None:
        self._layout, self._prompts, self._chosen = layout, prompts, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        shard = self._chosen[index]
        start = shard * self._layout.shard_size
        part = self._prompts.slice(start, self._layout.shard_size)
        lists = {name: [part[name].to_pylist()] for name in ("prompt_id", "group", "text")}
        return pa.table({"shard": [shard], "start": [start], **lists})
