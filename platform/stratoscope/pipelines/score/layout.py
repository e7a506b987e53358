"""Division of a scoring run's prompts into shards, and the choice between statistics per prompt and per shard."""

from stratoscope.errors import InputError
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.sharded.layout import GpuWork, ShardLayout, default_shard_size

FEWEST_MERGED_SHARDS = 50
"""Minimum number of shards for a bootstrap over shards."""


def lay_out(config: ScoreConfig, num_prompts: int, rows_per_prompt: int, work: GpuWork | None = None) -> ShardLayout:
    """Lay out a run.

    Args:
        config: the run's configuration.
        num_prompts: number of prompts.
        rows_per_prompt: rows of statistics and of spans per prompt.
        work: the work on GPUs, which determines the shard size; None on CPUs.

    Raises:
        InputError: statistics are to be stored by shard, and there would be too few shards.
    """
    keep, shard_size = config.statistics.keep, config.batching.shard_size
    by_shard = keep == "shard" or (keep == "auto" and num_prompts * rows_per_prompt > config.statistics.max_rows)
    size = shard_size or (work.shard_size(num_prompts, merged=by_shard) if work else default_shard_size(num_prompts))
    if not by_shard:
        return ShardLayout(num_prompts, size)
    largest = num_prompts // FEWEST_MERGED_SHARDS
    if largest == 0:
        raise InputError(
            f"statistics.keep shard needs at least {FEWEST_MERGED_SHARDS} prompts, not {num_prompts}; keep prompt"
        )
    if shard_size is not None and -(-num_prompts // shard_size) < FEWEST_MERGED_SHARDS:
        raise InputError(
            f"batching.shard_size {shard_size} makes fewer than {FEWEST_MERGED_SHARDS} shards of {num_prompts} "
            f"prompts, too few for intervals over shards; give at most {largest}"
        )
    return ShardLayout(num_prompts, shard_size or min(size, largest), by_shard=True)
