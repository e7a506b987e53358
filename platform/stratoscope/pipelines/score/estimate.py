"""Estimated cost of a scoring run."""

from collections.abc import Sequence

from stratoscope.pipelines.runtime.costs import STATISTICS_ROW_BYTES, MemoryEstimate, ModelCost, RunCost
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.score.inputs import ScoreInputs, mean_tokens


def estimate(config: ScoreConfig, inputs: ScoreInputs) -> Sequence[tuple[str, str]]:
    """Return the lines of a dry run: model, prompts, shards and cost."""
    prompts, layout, facts = inputs.prompts, inputs.layout, inputs.model.facts
    model = ModelCost(config.model.source, facts, config.model.dtype)
    tokens = round(mean_tokens(config, inputs) * len(prompts))
    rows_each = facts.num_layers * len(config.activations.taps)
    num_single = min(config.statistics.reservoir, len(prompts)) if layout.by_shard else len(prompts)
    rows = {"prompt_stats": num_single * rows_each}
    if layout.by_shard:
        rows["shard_stats"] = layout.num_shards * rows_each
    cost = RunCost(
        seconds=model.seconds(tokens),
        further_time="and some 20 s to start",
        memory=MemoryEstimate(model.weight_bytes + PROCESS_BYTES, "actor"),
        rows=rows,
        row_bytes=STATISTICS_ROW_BYTES,
    )
    ordered = prompts.ordered
    return [
        ("model", str(model)),
        (
            "prompts",
            f"{len(prompts)} of {config.prompts.source} ({ordered.num_read} read, {ordered.num_empty} empty, "
            f"{ordered.num_duplicates} duplicate, {ordered.num_over_limit} beyond prompts.limit), about {tokens:,} "
            "tokens",
        ),
        ("work", f"{layout.num_shards} shards of {layout.shard_size} prompts"),
        *cost.lines(),
    ]
