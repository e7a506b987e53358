"""Input of a scoring run: the model, the prompts and their division into shards, checked before any computation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow.compute as pc

from stratoscope.data import PromptSet, load_prompts
from stratoscope.errors import InputError
from stratoscope.execution import gpus_of_actor, machine_resources
from stratoscope.models import encode, load_tokenizer
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.score.layout import lay_out
from stratoscope.pipelines.sharded.layout import ShardLayout
from stratoscope.pipelines.sharded.models import OpenedModel, check_taps, open_model
from stratoscope.pipelines.sharded.sizes import gpu_work
from stratoscope.scoring import layer_spans, num_dropped
from stratoscope.tables.score import ALL

DEFAULT_MAX_TOKENS = 1024
SAMPLE = 256
"""Number of prompts that are encoded to estimate the mean number of tokens."""


@dataclass(frozen=True)
class ScoreInputs:
    """Input of a scoring run."""

    model: OpenedModel
    prompts: PromptSet
    max_tokens: int
    """Maximum number of tokens of a prompt."""
    spans: tuple[tuple[int, int], ...]
    """(start, length) of the spans of layers to measure."""
    layout: ShardLayout

    @property
    def group_sizes(self) -> dict[str, int]:
        """Number of prompts of each group."""
        counts = pc.value_counts(self.prompts.table["group"]).to_pylist()
        return {count["values"]: count["counts"] for count in counts}


def open_inputs(config: ScoreConfig) -> ScoreInputs:
    """Open the model, read the prompts and lay out the shards.

    Raises:
        InputError: the model or the prompts cannot be read, or lack what the configuration asks for.
    """
    model = open_model(config.model)
    check_taps(config.activations.taps, model.facts, "activations.taps")
    prompts = load_prompts(config.prompts.to_source(), config.prompts.limit, config.seed)
    num_layers, positions = model.facts.num_layers, model.facts.max_positions
    inputs = ScoreInputs(
        model,
        prompts,
        config.prompts.max_tokens or min(DEFAULT_MAX_TOKENS, positions or DEFAULT_MAX_TOKENS),
        layer_spans(_span_lengths(config, num_layers), num_layers),
        ShardLayout(len(prompts), 1),
    )
    _check(config, inputs)
    return lay_out_inputs(config, inputs, machine_resources())


def lay_out_inputs(config: ScoreConfig, inputs: ScoreInputs, available: Mapping[str, float]) -> ScoreInputs:
    """Return the input with its prompts divided into shards that suit the resources of a cluster or a machine.

    Raises:
        InputError: statistics are to be stored by shard, and there would be too few shards.
    """
    taps, facts = config.activations.taps, inputs.model.facts
    on_gpu = gpus_of_actor(config.actors.gpus, available) > 0
    mean = mean_tokens(config, inputs) if on_gpu and config.batching.shard_size is None else 1.0
    work = gpu_work(config, facts, taps, available, mean)
    rows_per_prompt = facts.num_layers * len(taps) + len(inputs.spans)
    return replace(inputs, layout=lay_out(config, len(inputs.prompts), rows_per_prompt, work))


def mean_tokens(config: ScoreConfig, inputs: ScoreInputs) -> float:
    """Estimate the mean number of tokens of a prompt from the first prompts. The order of prompts is random."""
    tokenizer = load_tokenizer(inputs.model.source, trust_remote_code=config.model.trust_remote_code)
    sample = inputs.prompts.table["text"].slice(0, SAMPLE).to_pylist()
    encoded = encode(tokenizer, sample, config.prompts.to_encoding(inputs.max_tokens))
    return max(1.0, sum(len(e.ids) for e in encoded) / len(sample))


def _span_lengths(config: ScoreConfig, num_layers: int) -> set[int]:
    """Return the configured lengths of spans. Without any, angular_distance uses the length of the prune ratio."""
    lengths = set(config.activations.spans)
    if "angular_distance" in config.scores.metrics and not lengths:
        lengths.add(max(1, num_dropped(config.scores.ratio, num_layers)))
    return lengths


def _check(config: ScoreConfig, inputs: ScoreInputs) -> None:
    source, facts = config.model.source, inputs.model.facts
    if facts.max_positions is not None and inputs.max_tokens > facts.max_positions:
        raise InputError(
            f"prompts.max_tokens {inputs.max_tokens} is more than the {facts.max_positions} positions of {source!r}; "
            "give at most that"
        )
    for length in config.activations.spans:
        if length > facts.num_layers:
            raise InputError(f"activations.spans {length}: {source!r} has only {facts.num_layers} layers")
    if config.prompts.chat or config.prompts.bos == "always":
        tokenizer = load_tokenizer(inputs.model.source, trust_remote_code=config.model.trust_remote_code)
        if config.prompts.chat and not tokenizer.chat_template:
            raise InputError(f"prompts.chat: the tokenizer of {source!r} has no chat template")
        if config.prompts.bos == "always" and tokenizer.bos_token_id is None:
            raise InputError(
                f"prompts.bos always: the tokenizer of {source!r} has no begin-of-sequence token; use auto or never"
            )
    if len(inputs.group_sizes) > 1 and ALL in inputs.group_sizes:
        raise InputError(f"prompts.group: no group may be named {ALL!r}, which stands for all prompts")
