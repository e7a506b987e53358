"""Batch sizes by device and model: the numbers of tokens and prompts that run together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from stratoscope.activations import Tap, measure_rate
from stratoscope.execution import gpus_of_actor, run_remote
from stratoscope.models import (
    MAX_PROMPTS,
    LoadedModel,
    LoadSpec,
    ModelFacts,
    find_knee,
    prompts_in_memory,
    usual_tokens,
)
from stratoscope.pipelines.sharded.config import BatchingSection, ShardedConfig
from stratoscope.pipelines.sharded.layout import GpuWork
from stratoscope.results import Manifest, ShardStore
from stratoscope.statistics.histogram import NUM_BINS

BYTES_PER_BIN = 4
"""Host memory in bytes for one bin of a prompt's histogram."""
COPIES_OF_BATCH = 3
"""Copies of a batch's histograms in host memory while its tables are built."""
BYTES_PER_LOGIT = 12
"""Device memory in bytes for one logit: the output of the head, its float32 version, and a temporary copy of that."""
LOGITS_SHARE = 0.25
"""Share of a device's free memory for the logits of an evaluator's batch. The rest is for cached states."""
SMALLEST, LARGEST = 1024, 65536
"""Numbers of tokens of the smallest and the largest batch that are timed."""
BATCH_TOKENS = "batch_tokens"
"""Key under which shards and manifests record the number of tokens per batch."""


@dataclass(frozen=True)
class BatchSizes:
    """Limits of a batch. All workers of a run need the same limits, because batches affect the rounding of results."""

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
        recorded: number of tokens per batch of an earlier start of the run, if it measured them.
        on_gpu: whether the model runs on GPUs.
    """
    prompts = _most_prompts(facts, taps, on_gpu=on_gpu)
    if section.max_tokens != "auto":
        return BatchSizes(section.max_tokens, prompts)
    if not on_gpu:
        return BatchSizes(usual_tokens(facts.num_parameters, on_gpu=False), prompts)
    return BatchSizes(recorded, prompts)


def recorded_tokens(store: ShardStore) -> int | None:
    """Return the number of tokens per batch of an earlier start of a run, or None if it finished no shard."""
    return next((int(counts[BATCH_TOKENS]) for counts in store.done().values() if BATCH_TOKENS in counts), None)


def gpu_work(
    config: ShardedConfig,
    facts: ModelFacts,
    taps: Sequence[Tap],
    available: Mapping[str, float],
    tokens_per_unit: float,
    *,
    sets_per_unit: float = 1.0,
) -> GpuWork | None:
    """Return the work from which a run on GPUs derives its shard size, or None if it runs on CPUs.

    Args:
        config: the configuration of the run.
        facts: the model.
        taps: the taps that are read.
        available: resources of the cluster or the machine.
        tokens_per_unit: mean number of tokens of a unit.
        sets_per_unit: mean number of statistics sets per unit.
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
        int(sets_per_unit * _histogram_bytes(facts, taps)),
    )


def _most_prompts(facts: ModelFacts, taps: Sequence[Tap], *, on_gpu: bool) -> int:
    if not on_gpu:
        return MAX_PROMPTS
    return prompts_in_memory(COPIES_OF_BATCH * _histogram_bytes(facts, taps))


def _histogram_bytes(facts: ModelFacts, taps: Sequence[Tap]) -> int:
    """Return the host memory in bytes of the histograms of a prompt, or of another set of statistics."""
    return facts.num_layers * len(taps) * NUM_BINS * BYTES_PER_BIN


def evaluation_tokens(
    given: int | Literal["auto"],
    facts: ModelFacts,
    loading: LoadSpec,
    previous: Manifest | None,
    *,
    cpus: float,
    gpus: float,
) -> int:
    """Return the number of tokens per batch, which is the same for all evaluators of a run.

    Args:
        given: the configured value.
        facts: the model.
        loading: how evaluators load it.
        previous: the manifest of an earlier start of the run, which may have measured them.
        cpus: CPUs of an evaluator.
        gpus: GPUs of an evaluator; without GPUs, nothing is measured.

    Raises:
        RunError: the model cannot be loaded or run.
    """
    if given != "auto":
        return given
    if not gpus:
        return usual_tokens(facts.num_parameters, on_gpu=False)
    recorded = previous.facts.get(BATCH_TOKENS) if previous else None
    return int(recorded or run_remote(_measure_evaluation, loading, cpus=cpus, gpus=gpus))


def _measure_evaluation(loading: LoadSpec) -> int:
    """Measure an evaluator's number of tokens per batch. It runs in its own process, before evaluators start."""
    model = loading.load(head=True)
    vocabulary: int = model.network.get_input_embeddings().weight.shape[0]
    free, _total = torch.cuda.mem_get_info(model.device)
    return min(measured_tokens(model), tokens_with_logits(free * loading.memory_share, vocabulary))


def tokens_with_logits(free_bytes: float, vocabulary: int) -> int:
    """Return the largest number of tokens, a power of two, whose logits fit into their share of the free memory."""
    fit = LOGITS_SHARE * free_bytes / (vocabulary * BYTES_PER_LOGIT)
    return 1 << int(math.log2(max(1.0, fit)))


def measured_tokens(model: LoadedModel) -> int:
    """Measure how many tokens a batch needs so that the device reaches nearly its maximum speed."""
    return find_knee(partial(measure_rate, model), SMALLEST, LARGEST)
