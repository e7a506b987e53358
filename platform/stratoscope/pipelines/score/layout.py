"""How the prompts of a scoring run are cut into shards, and what is kept of them: fixed before anything is computed."""

from stratoscope.errors import InputError
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.sharded.layout import ShardLayout, usual_size

FEWEST_MERGED_SHARDS = 50
"""A bootstrap over fewer shards says little."""


def lay_out(config: ScoreConfig, num_prompts: int, rows_per_prompt: int) -> ShardLayout:
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
    size = given or usual_size(num_prompts)
    if not by_shard:
        return ShardLayout(num_prompts, size)
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
    return ShardLayout(num_prompts, given or min(size, largest), by_shard=True)
