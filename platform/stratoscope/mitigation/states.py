"""Hidden states of answers, standardised by those of the frozen model, and their separation of right and wrong."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from stratoscope.mitigation import objectives
from stratoscope.mitigation.examples import PaddedRows, QuestionExample, answer_rows
from stratoscope.models import LayerLayout, LoadedModel

Tensor = torch.Tensor
States = dict[int, torch.Tensor]
"""Output of each layer, by its number, shape (rows, longest, D)."""
NUM_SAMPLES = 64
"""Number of questions or texts over which the hidden states of the reference are measured."""
QUESTIONS_AT_ONCE = 4
ROWS_AT_ONCE = 16
Example = TypeVar("Example")


@contextmanager
def capture_states(anatomy: LayerLayout, layers: Sequence[int]) -> Iterator[States]:
    """Capture the outputs of some layers, with their gradients, while the block runs.

    The block has to end before the backward pass, in which checkpointed layers run once more.
    """
    states: States = {}

    def keep(layer: int, output: Any) -> None:
        states[layer] = output[0] if isinstance(output, tuple) else output

    handles = [
        anatomy.blocks[layer].module.register_forward_hook(
            lambda _module, _inputs, output, layer=layer: keep(layer, output)
        )
        for layer in layers
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, eq=False)
class ReferenceStates:
    """The frozen model, with the mean and deviation of its hidden states over a fixed sample."""

    model: LoadedModel
    layer_of: tuple[int, ...]
    """Number of each layer of the trained model in the reference."""
    mean: dict[int, Tensor] = field(default_factory=dict)
    """Mean by layer of the reference, shape (D,)."""
    deviation: dict[int, Tensor] = field(default_factory=dict)
    """Standard deviation by layer of the reference, shape (D,)."""

    def standardise(self, states: Tensor, layer: int) -> Tensor:
        """Standardise the states of a layer of the reference; otherwise a few huge dimensions would hide all others."""
        return (objectives.upcast(states) - self.mean[layer]) / self.deviation[layer]


def evenly_spaced(examples: Sequence[Example]) -> list[Example]:
    """Return at most `NUM_SAMPLES` examples, evenly spaced over a sequence."""
    number = min(NUM_SAMPLES, len(examples))
    return [examples[i * len(examples) // number] for i in range(number)]


def measure_reference(reference: ReferenceStates, layers: Sequence[int], rows: PaddedRows) -> ReferenceStates:
    """Measure mean and standard deviation of the reference's hidden states over the segments of some rows."""
    model = reference.model
    sums: dict[int, Tensor] = {}
    squares: dict[int, Tensor] = {}
    count = 0
    for members in torch.split(torch.arange(len(rows.ids)), ROWS_AT_ONCE):
        part = PaddedRows(rows.ids[members], rows.mask[members], rows.segment[members]).to(model.device)
        with torch.no_grad(), capture_states(model.anatomy, layers) as states:
            model.backbone(part.ids, attention_mask=part.mask, use_cache=False)
        positions = part.positions
        count += len(positions[0])
        for layer in layers:
            values = states[layer][positions].double()
            sums[layer] = values.sum(dim=0) + sums.get(layer, 0.0)
            squares[layer] = values.square().sum(dim=0) + squares.get(layer, 0.0)
    means = {layer: total / count for layer, total in sums.items()}
    deviations = {layer: (squares[layer] / count - means[layer].square()).clamp_min(1e-12).sqrt() for layer in layers}
    dtype = objectives.upcast(torch.empty(0, dtype=model.network.dtype)).dtype
    return ReferenceStates(
        model,
        reference.layer_of,
        reference.mean | {layer: mean.to(dtype) for layer, mean in means.items()},
        reference.deviation | {layer: deviation.to(dtype) for layer, deviation in deviations.items()},
    )


def answer_means(
    states: States, rows: PaddedRows, numbers: Sequence[tuple[int, int]], reference: ReferenceStates
) -> Tensor:
    """Return the mean standardised state of each segment, shape (segments, L, D).

    Args:
        states: states by layer.
        rows: the rows of the states.
        numbers: L layers, each with its number in the reference; may be empty.
        reference: provides mean and deviation.
    """
    row, position = rows.positions
    means = [
        objectives.segment_mean(reference.standardise(states[layer][row, position], original), row, len(rows.segment))
        for layer, original in numbers
    ]
    return torch.stack(means, dim=1) if means else rows.ids.new_zeros(len(rows.ids), 0, 0)


def question_ends(
    states: States, rows: PaddedRows, num: int, numbers: Sequence[tuple[int, int]], reference: ReferenceStates
) -> Tensor:
    """Return the standardised state of the last token before each of the first segments, shape (num, L, D)."""
    first = rows.segment[:num].int().argmax(dim=1)
    row = torch.arange(num, device=first.device)
    ends = [reference.standardise(states[layer][row, first - 1], original) for layer, original in numbers]
    return torch.stack(ends, dim=1) if ends else rows.ids.new_zeros(num, 0, 0)


@dataclass(frozen=True, eq=False)
class Separation:
    """Separation of right and wrong answers in each layer, by the cosine with the question's end."""

    gap: NDArray[np.float64]
    """Cosine of the right answer minus the mean cosine of wrong answers, shape (Q, L)."""
    closer: NDArray[np.float64]
    """Share of wrong answers with a smaller cosine than the right one, shape (Q, L)."""


def separation(
    model: LoadedModel, examples: Sequence[QuestionExample], reference: ReferenceStates, layer_of: Sequence[int]
) -> Separation:
    """Measure how each layer of a model separates right answers from wrong ones.

    Args:
        model: the model, perhaps without some layers.
        examples: Q questions.
        reference: provides the mean and deviation of each layer.
        layer_of: number of each of the model's L layers in the reference.

    Source: ours; the contrast of `objectives.info_nce` trains it.
    """
    numbers = list(enumerate(layer_of))
    filler = int(model.tokenizer.pad_token_id or 0)
    gaps: list[Tensor] = []
    closer: list[Tensor] = []
    for start in range(0, len(examples), QUESTIONS_AT_ONCE):
        chunk = examples[start : start + QUESTIONS_AT_ONCE]
        rows = answer_rows(chunk, filler).to(model.device)
        with torch.inference_mode(), capture_states(model.anatomy, range(len(numbers))) as states:
            model.backbone(rows.ids, attention_mask=rows.mask, use_cache=False)
            answers = functional.normalize(answer_means(states, rows, numbers, reference), dim=-1)
            ends = functional.normalize(question_ends(states, rows, len(chunk), numbers, reference), dim=-1)
            right = (answers[: len(chunk)] * ends).sum(dim=-1)
            question = torch.tensor([i for i, e in enumerate(chunk) for _ in e.wrong], device=model.device)
            wrong = (answers[len(chunk) :] * ends[question]).sum(dim=-1)
            gaps.append(right - objectives.segment_mean(wrong, question, len(chunk)))
            closer.append(objectives.segment_mean((right[question] > wrong).to(right), question, len(chunk)))
    return Separation(*(torch.cat(parts).double().cpu().numpy() for parts in (gaps, closer)))
