"""Estimated cost of a mitigation run."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stratoscope.models import ModelFacts
from stratoscope.pipelines.mitigation.config import MitigationConfig
from stratoscope.pipelines.mitigation.dataset import MitigationData
from stratoscope.pipelines.reporting.data_notes import part_counts
from stratoscope.pipelines.runtime.costs import MemoryEstimate, ModelCost, RunCost, check_machine_memory
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES

__all__ = ["MemoryEstimate", "check_memory", "estimate", "need"]

TRAIN_FLOPS = 8
"""Operations per parameter and token: forward, backward, and the frozen model's forward pass."""
START_S = 40
"""Seconds that a training takes to start its processes, import libraries and load the model."""


def need(
    config: MitigationConfig, facts: ModelFacts, data: MitigationData, trained_layers: int, vocabulary: int
) -> MemoryEstimate:
    """Estimate the minimum memory that training needs.

    Args:
        config: configuration of the job.
        facts: size of the model.
        data: training data.
        trained_layers: the largest number of layers that a variant trains.
        vocabulary: number of logits per token.
    """
    train, model = config.train, ModelCost(config.model.source, facts, config.model.dtype)
    size = model.bytes_per_parameter
    workers = train.num_workers or min(2, os.cpu_count() or 1)
    trained = facts.num_parameters * trained_layers / facts.num_layers
    if config.parameters.method == "lora":
        trained *= min(1.0, 2 * config.parameters.rank / facts.hidden_size)
    # Weights, gradients and, for half precision, a float32 copy; ZeRO partitions at least AdamW's two moments.
    own = trained * (2 * size + (4 if size < 4 else 0) + 8 / workers)
    tokens = _tokens_of_step(config, data)
    share = 1 / (workers * train.micro_batches)
    # The model's logits are kept until the backward pass. On texts, the frozen model's logits are kept too.
    logits = size * vocabulary * share * (tokens.predicted + (tokens.texts if config.terms.weights.forgetting else 0))
    states = facts.num_layers * facts.hidden_size * size * tokens.all * share
    return MemoryEstimate(
        own + logits + states + PROCESS_BYTES, "workers", workers, shared=model.weight_bytes, minimum=True
    )


def check_memory(need: MemoryEstimate) -> None:
    """Check that this machine has the minimum memory that training needs.

    Raises:
        InputError: too little memory is free.
    """
    check_machine_memory(
        need,
        "training",
        "take fewer train.questions and train.texts, more train.micro_batches, --parameters.method lora, "
        "--model.dtype bfloat16 or fewer train.num_workers",
    )


def estimate(
    config: MitigationConfig, facts: ModelFacts, data: MitigationData, need: MemoryEstimate
) -> Sequence[tuple[str, str]]:
    """Return the lines of a dry run: model, training data and cost."""
    model = ModelCost(config.model.source, facts, config.model.dtype)
    train, tokens = config.train, _tokens_of_step(config, data)
    variants = len(config.drops.metrics if config.recovery else config.compare)
    trainings = variants * (len(train.seeds) + config.tune.num_samples)
    seconds = model.seconds(tokens.all * train.max_steps, TRAIN_FLOPS) + START_S
    return [
        ("model", str(model)),
        *((f"data set {name}", part_counts(counts)) for name, counts in data.counts.items()),
        ("texts", f"{len(data.corpus.texts):,} to train on"),
        *_samples(config, model),
        ("work", f"{trainings} trainings of {train.max_steps} steps, about {tokens.all:,.0f} tokens a step"),
        *RunCost(seconds, "for each training, besides its evaluation", need).lines(),
    ]


def _samples(config: MitigationConfig, model: ModelCost) -> Iterator[tuple[str, str]]:
    """Yield the line about the texts that the model generates, if there are any."""
    if not config.num_samples:
        return
    tokens = config.num_samples * config.tokens_per_sample
    parts = f", {config.num_validation_texts:,} of them for the search" if config.num_validation_texts else ""
    yield (
        "samples",
        f"{config.num_samples:,} texts of at most {config.tokens_per_sample} tokens that the model generates{parts}: "
        f"at least {model.seconds(tokens):,.0f} s on all of this machine",
    )


@dataclass(frozen=True)
class _StepTokens:
    """Mean number of tokens of a training step."""

    all: float
    predicted: float
    texts: float
    """Tokens of texts, which are also counted in `predicted`."""


def _tokens_of_step(config: MitigationConfig, data: MitigationData) -> _StepTokens:
    corpus, weights = data.corpus, config.terms.weights
    answers = [len(q.right) + sum(map(len, q.wrong)) for q in corpus.questions]
    rows = [len(q.question) * (1 + len(q.wrong)) + a for q, a in zip(corpus.questions, answers, strict=True)]
    questions = config.train.questions if weights.uses_questions else 0
    lengths = [len(t) for t in corpus.texts] + [config.tokens_per_sample] * config.samples.number
    texts = config.train.texts * _mean(lengths) if weights.uses_texts else 0
    return _StepTokens(questions * _mean(rows) + texts, questions * _mean(answers) + texts, texts)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
