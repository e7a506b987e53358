"""Hidden states of answers, standardised by those of the frozen model, and how well they tell right from wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from stratoscope.mitigation import objectives
from stratoscope.mitigation.capture import States, captured
from stratoscope.mitigation.examples import QuestionExample, Rows, answer_rows
from stratoscope.models import LoadedModel

Tensor = torch.Tensor
SAMPLED = 64
"""Questions or texts over which the reference's hidden states are measured."""
QUESTIONS_AT_ONCE = 4
ROWS_AT_ONCE = 16
Example = TypeVar("Example")


@dataclass(frozen=True, eq=False)
class ReferenceStates:
    """The frozen model, and by what hidden states are standardised: its own, over a fixed sample."""

    model: LoadedModel
    layer_of: tuple[int, ...]
    """Of each layer of the trained model, the number that the reference has it under."""
    mean: dict[int, Tensor] = field(default_factory=dict)
    """By layer of the reference, shape (D,)."""
    deviation: dict[int, Tensor] = field(default_factory=dict)

    def standard(self, states: Tensor, layer: int) -> Tensor:
        """Standardise a layer's states, as the reference numbers it: a few huge dimensions would hide all others."""
        return (objectives.upcast(states) - self.mean[layer]) / self.deviation[layer]


def sample(examples: Sequence[Example]) -> list[Example]:
    """Return `SAMPLED` examples from all over a sequence, or all where there are no more."""
    number = min(SAMPLED, len(examples))
    return [examples[i * len(examples) // number] for i in range(number)]


def measured(reference: ReferenceStates, layers: Sequence[int], rows: Rows) -> ReferenceStates:
    """Measure mean and standard deviation of the reference's hidden states over the segments of some rows."""
    model = reference.model
    sums: dict[int, Tensor] = {}
    squares: dict[int, Tensor] = {}
    count = 0
    for chosen in torch.split(torch.arange(len(rows.ids)), ROWS_AT_ONCE):
        part = Rows(rows.ids[chosen], rows.mask[chosen], rows.segment[chosen]).to(model.device)
        with torch.no_grad(), captured(model.anatomy, layers) as states:
            model.backbone(part.ids, attention_mask=part.mask, use_cache=False)
        read = part.looked_at
        count += len(read[0])
        for layer in layers:
            values = states[layer][read].double()
            sums[layer] = values.sum(dim=0) + sums.get(layer, 0.0)
            squares[layer] = values.square().sum(dim=0) + squares.get(layer, 0.0)
    means = {layer: total / count for layer, total in sums.items()}
    deviations = {layer: (squares[layer] / count - means[layer].square()).clamp_min(1e-12).sqrt() for layer in layers}
    like = objectives.upcast(torch.empty(0, dtype=model.network.dtype)).dtype
    return ReferenceStates(
        model,
        reference.layer_of,
        reference.mean | {layer: mean.to(like) for layer, mean in means.items()},
        reference.deviation | {layer: deviation.to(like) for layer, deviation in deviations.items()},
    )


def answer_means(states: States, rows: Rows, numbers: Sequence[tuple[int, int]], reference: ReferenceStates) -> Tensor:
    """Return the mean standardised state of each segment, shape (segments, L, D).

    Args:
        states: by layer.
        rows: that they are of.
        numbers: L layers, perhaps none, each with the number that the reference has it under.
        reference: by which they are standardised.
    """
    row, place = rows.looked_at
    means = [
        objectives.segment_mean(reference.standard(states[layer][row, place], original), row, len(rows.segment))
        for layer, original in numbers
    ]
    return torch.stack(means, dim=1) if means else rows.ids.new_zeros(len(rows.ids), 0, 0)


def question_ends(
    states: States, rows: Rows, num: int, numbers: Sequence[tuple[int, int]], reference: ReferenceStates
) -> Tensor:
    """Return the standardised state of the last token before each of the first segments, shape (num, L, D)."""
    first = rows.segment[:num].int().argmax(dim=1)
    each = torch.arange(num, device=first.device)
    ends = [reference.standard(states[layer][each, first - 1], original) for layer, original in numbers]
    return torch.stack(ends, dim=1) if ends else rows.ids.new_zeros(num, 0, 0)


@dataclass(frozen=True, eq=False)
class Separation:
    """How a model's layers tell right answers from wrong ones, by the cosine with the question's end."""

    gap: NDArray[np.float64]
    """Cosine of the right answer less the mean one of wrong answers, shape (Q, L)."""
    closer: NDArray[np.float64]
    """Share of wrong answers that are further away than the right one, shape (Q, L)."""


def separation(
    model: LoadedModel, examples: Sequence[QuestionExample], reference: ReferenceStates, layer_of: Sequence[int]
) -> Separation:
    """Measure how each layer of a model separates right answers from wrong ones.

    Args:
        model: which may lack layers.
        examples: Q questions.
        reference: with the mean and deviation of each layer.
        layer_of: of each of the model's L layers, the number that the reference has it under.

    Source: ours; it is what the contrast of `objectives.info_nce` trains.
    """
    numbers = list(enumerate(layer_of))
    filler = int(model.tokenizer.pad_token_id or 0)
    gaps: list[Tensor] = []
    closer: list[Tensor] = []
    for start in range(0, len(examples), QUESTIONS_AT_ONCE):
        chunk = examples[start : start + QUESTIONS_AT_ONCE]
        rows = answer_rows(chunk, filler).to(model.device)
        with torch.inference_mode(), captured(model.anatomy, range(len(numbers))) as states:
            model.backbone(rows.ids, attention_mask=rows.mask, use_cache=False)
            answers = functional.normalize(answer_means(states, rows, numbers, reference), dim=-1)
            ends = functional.normalize(question_ends(states, rows, len(chunk), numbers, reference), dim=-1)
            right = (answers[: len(chunk)] * ends).sum(dim=-1)
            question = torch.tensor([i for i, e in enumerate(chunk) for _ in e.wrong], device=model.device)
            wrong = (answers[len(chunk) :] * ends[question]).sum(dim=-1)
            gaps.append(right - objectives.segment_mean(wrong, question, len(chunk)))
            closer.append(objectives.segment_mean((right[question] > wrong).to(right), question, len(chunk)))
    return Separation(*(torch.cat(parts).double().cpu().numpy() for parts in (gaps, closer)))
