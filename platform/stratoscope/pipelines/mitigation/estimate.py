"""What a mitigation run would do, and roughly what it takes, said before it starts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch

from stratoscope.errors import InputError
from stratoscope.models import ModelFacts, dtype_name
from stratoscope.pipelines.mitigation.config import MitigationConfig
from stratoscope.pipelines.mitigation.dataset import Material
from stratoscope.pipelines.reporting.formatting import model_line
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES, operations_per_second, usual_device

LOGITS = 5
"""Copies of the logits that a step holds: the model's and the frozen one's, their log-probabilities, a gradient."""
OPERATIONS = 8
"""Per trained parameter and token: forward, backward, and the frozen model's forward pass."""
START_S = 40
"""Of each training: processes, libraries, the model."""


@dataclass(frozen=True)
class MemoryEstimate:
    """The least memory that training takes; the real peak is above it."""

    worker: float
    """Bytes of each worker's own."""
    workers: int
    shared: float
    """Bytes of the weights, which the workers of a machine read from one file."""

    @property
    def machine(self) -> float:
        """Bytes of all workers, were they on one machine."""
        return self.shared + self.workers * self.worker


def need(
    config: MitigationConfig, facts: ModelFacts, material: Material, trained_layers: int, vocabulary: int
) -> MemoryEstimate:
    """Estimate what memory a training needs at least.

    Args:
        config: of the job.
        facts: of the model.
        material: what is trained on.
        trained_layers: the most layers that a variant trains.
        vocabulary: size of the logits.
    """
    train = config.train
    dtype = dtype_name(config.model.dtype, usual_device())
    bytes_each = torch.finfo(getattr(torch, dtype)).bits / 8
    workers = train.num_workers or min(2, os.cpu_count() or 1)
    trained = facts.num_parameters * trained_layers / facts.num_layers
    if config.parameters.method == "lora":
        trained *= min(1.0, 2 * config.parameters.rank / facts.hidden_size)
    # Weights, gradients and, of half precision, a float32 copy; ZeRO deals out at least AdamW's two moments.
    own = trained * (2 * bytes_each + (4 if bytes_each < 4 else 0) + 8 / workers)
    tokens = _tokens(config, material)
    share = 1 / (workers * train.micro_batches)
    logits = LOGITS * 4 * vocabulary * tokens.predicted * share
    states = facts.num_layers * facts.hidden_size * bytes_each * tokens.all * share
    return MemoryEstimate(own + logits + states + PROCESS_BYTES, workers, facts.num_parameters * bytes_each)


def check_memory(need: MemoryEstimate) -> None:
    """See that this machine has the memory that training needs at least.

    Raises:
        InputError: it has not.
    """
    free = psutil.virtual_memory().available
    if usual_device() == "cuda":
        free = torch.cuda.get_device_properties(0).total_memory * torch.cuda.device_count()
    if need.machine > free:
        raise InputError(
            f"training needs at least {need.machine / 1e9:,.1f} GB ({need.workers} workers of "
            f"{need.worker / 1e9:,.1f} GB) and {free / 1e9:,.1f} GB are free; take fewer train.questions and "
            "train.texts, more train.micro_batches, --parameters.method lora, --model.dtype bfloat16 or fewer "
            "train.num_workers"
        )


def estimate(
    config: MitigationConfig, facts: ModelFacts, material: Material, need: MemoryEstimate
) -> Sequence[tuple[str, str]]:
    """Return pairs of a name and a text: the model, what is trained on and held out, and what the run takes."""
    device = usual_device()
    dtype = dtype_name(config.model.dtype, device)
    train, corpus = config.train, material.corpus
    tokens = _tokens(config, material)
    variants = len(config.drops.metrics if config.healing else config.compare)
    trainings = variants * (len(train.seeds) + config.tune.num_samples)
    seconds = OPERATIONS * facts.num_parameters * tokens.all * train.max_steps
    seconds = seconds / operations_per_second(device) + START_S
    return [
        ("model", model_line(config.model.source, facts, dtype, device)),
        *(
            (
                f"data set {name}",
                f"{counts['trained']} questions to train on, {counts['held_out']} held out"
                + (f", {counts['validated']} for the search" if counts["validated"] else ""),
            )
            for name, counts in material.counts.items()
        ),
        ("texts", f"{len(corpus.texts):,} to train on"),
        (
            "work",
            f"{trainings} trainings of {train.max_steps} steps, about {tokens.all:,.0f} tokens a step",
        ),
        ("memory", f"at least {need.worker / 1e9:,.1f} GB for each of {need.workers} workers"),
        ("time", f"roughly {seconds:,.0f} s for each training on all of this machine, and its evaluation"),
    ]


@dataclass(frozen=True)
class _Tokens:
    """Of a step, in the mean."""

    all: float
    predicted: float


def _tokens(config: MitigationConfig, material: Material) -> _Tokens:
    corpus, weights = material.corpus, config.terms.weights
    answers = [len(q.right) + sum(map(len, q.wrong)) for q in corpus.questions]
    rows = [len(q.question) * (1 + len(q.wrong)) + a for q, a in zip(corpus.questions, answers, strict=True)]
    of_questions = config.train.questions if weights.uses_questions else 0
    of_texts = config.train.texts * _mean([len(t) for t in corpus.texts]) if weights.uses_texts else 0
    return _Tokens(of_questions * _mean(rows) + of_texts, of_questions * _mean(answers) + of_texts)


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
