"""Estimated cost of a scoring run."""

from collections.abc import Sequence

from stratoscope.data import PromptSet
from stratoscope.models import ModelFacts, ModelSource, encode, load_tokenizer
from stratoscope.pipelines.runtime.costs import STATISTICS_ROW_BYTES, MemoryEstimate, ModelCost, RunCost
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.sharded.layout import ShardLayout

SAMPLE = 256
"""Number of prompts that are encoded to estimate the tokens of all."""


def estimate(
    config: ScoreConfig,
    source: ModelSource,
    facts: ModelFacts,
    prompts: PromptSet,
    *,
    layout: ShardLayout,
    max_tokens: int,
) -> Sequence[tuple[str, str]]:
    """Return the lines of a dry run: model, prompts, shards and cost."""
    model = ModelCost(config.model.source, facts, config.model.dtype)
    tokens = _tokens(config, source, prompts, max_tokens)
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


def _tokens(config: ScoreConfig, source: ModelSource, prompts: PromptSet, max_tokens: int) -> int:
    """Estimate the tokens of all prompts from the first ones, whose order is random."""
    tokenizer = load_tokenizer(source, trust_remote_code=config.model.trust_remote_code)
    sample = prompts.table["text"].slice(0, SAMPLE).to_pylist()
    encoded = encode(tokenizer, sample, config.prompts.to_encoding(max_tokens))
    return round(sum(len(e.ids) for e in encoded) * len(prompts) / len(sample))
