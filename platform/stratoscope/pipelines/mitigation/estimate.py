"""What a mitigation run would do, and roughly what it takes, said before it starts."""

from collections.abc import Sequence

import torch

from stratoscope.models import ModelFacts, dtype_name
from stratoscope.pipelines.facts import model_line
from stratoscope.pipelines.machine import PROCESS_BYTES, operations_per_second, usual_device
from stratoscope.pipelines.mitigation.config import MitigationConfig
from stratoscope.pipelines.mitigation.material import Material

OPERATIONS = 8
"""Per trained parameter and token: forward, backward, and the frozen model's forward pass."""
START_S = 40
"""Of each training: processes, libraries, the model."""


def estimate(config: MitigationConfig, facts: ModelFacts, material: Material) -> Sequence[tuple[str, str]]:
    """Return pairs of a name and a text: the model, what is trained on and held out, and what the run takes."""
    device = usual_device()
    dtype = dtype_name(config.model.dtype, device)
    train, corpus = config.train, material.corpus
    questions = [len(q.question) * (1 + len(q.wrong)) + len(q.right) + sum(map(len, q.wrong)) for q in corpus.questions]
    of_questions = train.questions * _mean(questions) if config.terms.weights.uses_questions else 0
    of_texts = train.texts * _mean([len(t) for t in corpus.texts]) if config.terms.weights.uses_texts else 0
    variants = len(config.drops.metrics if config.healing else config.compare)
    trainings = variants * (len(train.seeds) + config.tune.num_samples)
    seconds = OPERATIONS * facts.num_parameters * (of_questions + of_texts) * train.max_steps
    seconds = seconds / operations_per_second(device) + START_S
    bytes_each = torch.finfo(getattr(torch, dtype)).bits / 8
    memory = facts.num_parameters * (2 * bytes_each + 12) + PROCESS_BYTES
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
            f"{trainings} trainings of {train.max_steps} steps, about {of_questions + of_texts:,.0f} tokens a step",
        ),
        ("memory", f"at most {memory / 1e9:,.1f} GB for each worker"),
        ("time", f"roughly {seconds:,.0f} s for each training on all of this machine, and its evaluation"),
    ]


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
