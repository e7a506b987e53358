"""Sizes of batches, by device and model: the tokens and the prompts that run together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from stratoscope.activations import Tap, measure_rate
from stratoscope.execution import gpus_of_actor
from stratoscope.models import (
    MAX_PROMPTS,
    LoadedModel,
    ModelFacts,
    find_knee,
    prompts_in_memory,
    usual_tokens,
)
from stratoscope.pipelines.sharded.config import BatchingSection, ShardedConfig
from stratoscope.pipelines.sharded.layout import GpuWork
from stratoscope.results import ShardStore
from stratoscope.statistics.histogram import NUM_BINS

HOST_BYTES_PER_BIN = 32
"""Memory of the host for a bin of a prompt's histogram, with all copies."""
SMALLEST, LARGEST = 1024, 65536
"""Tokens of the smallest and of the largest batch that is timed."""
BATCH_TOKENS = "batch_tokens"
"""Name under which shards record the tokens of their batches."""


@dataclass(frozen=True)
class BatchSizes:
    """Limits of a batch. All workers of a run must have the same, since batches change the rounding of results."""

    max_tokens: int | None
    """Maximum tokens, padding included; None if the first worker of the run measures it."""
    max_prompts: int
    """Maximum prompts, which bounds the memory of their statistics."""


def batch_sizes(
    section: BatchingSection, facts: ModelFacts, taps: Sequence[Tap], recorded: int | None, *, on_gpu: bool
) -> BatchSizes:
    """Return the sizes of a run's batches.

    Args:
        section: the section of the configuration.
        facts: the model.
        taps: the taps that are read.
        recorded: tokens of a batch in an earlier start of the run, if that measured them.
        on_gpu: whether the model runs on GPUs.
    """
    prompts = _most_prompts(facts, taps, on_gpu=on_gpu)
    if section.max_tokens != "auto":
        return BatchSizes(section.max_tokens, prompts)
    if not on_gpu:
        return BatchSizes(usual_tokens(facts.num_parameters, on_gpu=False), prompts)
    return BatchSizes(recorded, prompts)


def recorded_tokens(store: ShardStore) -> int | None:
    """Return the tokens of a batch in an earlier start of a run, or None if that has finished no shard."""
    return next((int(counts[BATCH_TOKENS]) for counts in store.done().values() if BATCH_TOKENS in counts), None)


def gpu_work(
    config: ShardedConfig,
    facts: ModelFacts,
    taps: Sequence[Tap],
    available: Mapping[str, float],
    tokens_per_unit: float,
) -> GpuWork | None:
    """Return what the shards of a run on GPUs are cut by, or None if it runs on CPUs.

    Args:
        config: the configuration of the run.
        facts: the model.
        taps: the taps that are read.
        available: resources of the cluster or the machine.
        tokens_per_unit: mean number of tokens of a unit.
    """
    gpus = gpus_of_actor(config.actors.gpus, available)
    if not gpus:
        return None
    given = config.batching.max_tokens
    actors = config.actors.max or max(config.actors.min, int(available.get("GPU", 0) / gpus))
    return GpuWork(
        tokens_per_unit,
        usual_tokens(facts.num_parameters, on_gpu=True) if given == "auto" else given,
        _most_prompts(facts, taps, on_gpu=True),
        actors,
    )


def _most_prompts(facts: ModelFacts, taps: Sequence[Tap], *, on_gpu: bool) -> int:
    if not on_gpu:
        return MAX_PROMPTS
    return prompts_in_memory(facts.num_layers * len(taps) * NUM_BINS * HOST_BYTES_PER_BIN)


def measured_tokens(model: LoadedModel) -> int:
    """Measure on the device how many tokens a batch needs for the device to be nearly as fast as it can be."""
    return find_knee(partial(measure_rate, model), SMALLEST, LARGEST)
