"""Input of a scoring run: the model, the prompts and their division into shards, checked before any computation."""

from dataclasses import dataclass

import pyarrow.compute as pc

from stratoscope.data import PromptSet, load_prompts
from stratoscope.errors import InputError
from stratoscope.models import load_tokenizer
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.pipelines.score.layout import lay_out
from stratoscope.pipelines.sharded.layout import ShardLayout
from stratoscope.pipelines.sharded.models import OpenedModel, check_taps, open_model
from stratoscope.scoring import layer_spans, num_dropped
from stratoscope.tables.score import ALL

DEFAULT_MAX_TOKENS = 1024


@dataclass(frozen=True)
class ScoreInputs:
    """Input of a scoring run."""

    model: OpenedModel
    prompts: PromptSet
    max_tokens: int
    """Maximum tokens of a prompt."""
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
    spans = layer_spans(_span_lengths(config, num_layers), num_layers)
    rows_per_prompt = num_layers * len(config.activations.taps) + len(spans)
    inputs = ScoreInputs(
        model,
        prompts,
        config.prompts.max_tokens or min(DEFAULT_MAX_TOKENS, positions or DEFAULT_MAX_TOKENS),
        spans,
        lay_out(config, len(prompts), rows_per_prompt),
    )
    _check(config, inputs)
    return inputs


def _span_lengths(config: ScoreConfig, num_layers: int) -> set[int]:
    """Return the lengths of spans; without any, angular_distance needs that of the prune ratio."""
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
    if config.prompts.chat:
        tokenizer = load_tokenizer(inputs.model.source, trust_remote_code=config.model.trust_remote_code)
        if not tokenizer.chat_template:
            raise InputError(f"prompts.chat: the tokenizer of {source!r} has no chat template")
    if len(inputs.group_sizes) > 1 and ALL in inputs.group_sizes:
        raise InputError(f"prompts.group: no group may be named {ALL!r}, which stands for all prompts")
