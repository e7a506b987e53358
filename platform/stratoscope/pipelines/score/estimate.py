"""What a scoring run would do, and roughly what it takes, said before it starts."""

from collections.abc import Sequence

import torch

from stratoscope.data import PromptSet
from stratoscope.models import ModelFacts, ModelSource, dtype_name, encode, load_tokenizer
from stratoscope.pipelines.reporting.formatting import model_line
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES, operations_per_second, usual_device
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.sharded.layout import ShardLayout

SAMPLE = 256
BYTES_PER_ROW = 187
"""Of prompt_stats on disk, as measured on SmolLM2 and SciQ (docs/benchmarks.md)."""


def estimate(
    config: ScoreConfig,
    source: ModelSource,
    facts: ModelFacts,
    prompts: PromptSet,
    *,
    layout: ShardLayout,
    max_tokens: int,
) -> Sequence[tuple[str, str]]:
    """Return pairs of a name and a text: the model, the prompts, and the size, memory and time of the run."""
    device = usual_device()
    dtype = dtype_name(config.model.dtype, device)
    num_prompts, ordered = len(prompts), prompts.ordered
    tokens = _tokens(config, source, prompts, max_tokens)
    kept_alone = min(config.statistics.reservoir, num_prompts) if layout.by_shard else num_prompts
    rows_each = facts.num_layers * len(config.activations.taps)
    rows = {"prompt_stats": kept_alone * rows_each} | (
        {"shard_stats": layout.num_shards * rows_each} if layout.by_shard else {}
    )
    weights = facts.num_parameters * torch.finfo(getattr(torch, dtype)).bits / 8
    seconds = 2 * facts.num_parameters * tokens / operations_per_second(device)
    return [
        ("model", model_line(config.model.source, facts, dtype, device)),
        (
            "prompts",
            f"{num_prompts} of {config.prompts.source} ({ordered.num_read} read, {ordered.num_empty} empty, "
            f"{ordered.num_duplicates} duplicate), about {tokens:,} tokens",
        ),
        ("work", f"{layout.num_shards} shards of {layout.shard_size} prompts"),
        (
            "rows",
            ", ".join(f"{number:,} in {name}.parquet" for name, number in rows.items())
            + f", about {sum(rows.values()) * BYTES_PER_ROW / 1e6:,.1f} MB",
        ),
        ("memory", f"about {(weights + PROCESS_BYTES) / 1e9:,.1f} GB for each actor"),
        ("time", f"roughly {seconds:,.0f} s on all of this machine, and some 20 s to start"),
    ]


def _tokens(config: ScoreConfig, source: ModelSource, prompts: PromptSet, max_tokens: int) -> int:
    """Estimate the tokens of all prompts from the first ones, whose order is random."""
    tokenizer = load_tokenizer(source, trust_remote_code=config.model.trust_remote_code)
    sample = prompts.table["text"].slice(0, SAMPLE).to_pylist()
    encoded = encode(tokenizer, sample, config.prompts.to_encoding(max_tokens))
    return round(sum(len(e.ids) for e in encoded) * len(prompts) / len(sample))
