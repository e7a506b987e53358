"""Training examples as token ids, and the schedule that assigns them to steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stratoscope.models import bucket, encode_pair, pad


@dataclass(frozen=True)
class QuestionExample:
    """A question with one right answer and some wrong ones, as token ids."""

    question: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[tuple[int, ...], ...]


def encode_question(
    tokenizer: Any, question: str, right: str, wrong: Sequence[str], max_length: int
) -> QuestionExample | None:
    """Encode a question with its answers, or return None if an answer has no token or exceeds the length limit.

    Args:
        tokenizer: tokenizer of the model.
        question: the prompt.
        right: the right answer.
        wrong: the wrong answers.
        max_length: largest number of tokens of question and answer together.
    """
    pairs = [encode_pair(tokenizer, question, f" {answer}") for answer in (right, *wrong)]
    if any(not answer or len(context) + len(answer) > max_length for context, answer in pairs):
        return None
    answers = [tuple(answer) for _, answer in pairs]
    return QuestionExample(tuple(pairs[0][0]), answers[0], tuple(answers[1:]))


@dataclass(frozen=True)
class Corpus:
    """The training data."""

    questions: tuple[QuestionExample, ...]
    texts: tuple[tuple[int, ...], ...]
    """General texts, for distillation and language modelling."""


@dataclass(frozen=True)
class BatchSchedule:
    """The examples of each step: a pure function of the step, so that a resumed run trains on the same ones."""

    num_questions: int
    num_texts: int
    questions_per_step: int
    """Number of questions in a step, over all workers and micro-batches."""
    texts_per_step: int
    micro_batches: int
    """Number of micro-batches of a step; each is divided among the workers."""
    seed: int

    def questions(self, step: int) -> list[int]:
        """Return the numbers of a step's questions."""
        return _take(self.num_questions, self.questions_per_step, step, (self.seed, 0))

    def texts(self, step: int) -> list[int]:
        """Return the numbers of a step's texts."""
        return _take(self.num_texts, self.texts_per_step, step, (self.seed, 1))

    def micro(self, members: Sequence[int], number: int) -> list[int]:
        """Return the examples of one micro-batch, of all workers."""
        return list(members[number :: self.micro_batches])

    @staticmethod
    def share(members: Sequence[int], rank: int, workers: int) -> list[int]:
        """Return the examples of one worker in a micro-batch."""
        return list(members[rank::workers])


def _take(total: int, size: int, step: int, seed: tuple[int, ...]) -> list[int]:
    """Return the examples of a step from an endless sequence of shuffled epochs."""
    if not size or not total:
        return []
    taken: list[int] = []
    while len(taken) < size:
        epoch, place = divmod(step * size + len(taken), total)
        order = np.random.default_rng((*seed, epoch)).permutation(total)
        taken += order[place : place + size - len(taken)].tolist()
    return taken


@dataclass(frozen=True, eq=False)
class PaddedRows:
    """Padded rows of tokens, each with a segment of interest."""

    ids: torch.Tensor
    """Shape (rows, longest)."""
    mask: torch.Tensor
    """Same shape, 0 on padding."""
    segment: torch.Tensor
    """Whether a token belongs to the segment, which is contiguous; same shape."""

    def to(self, device: torch.device) -> "PaddedRows":
        """Return the rows on a device."""
        return PaddedRows(self.ids.to(device), self.mask.to(device), self.segment.to(device))

    def parts(self, max_padding: float) -> "Iterator[tuple[list[int], PaddedRows]]":
        """Yield the rows in groups of similar length, each with the numbers of its rows.

        Args:
            max_padding: largest share of a group that may be padding; 1 keeps all rows together.
        """
        lengths = self.mask.sum(dim=1).tolist()
        if max_padding >= 1:
            yield list(range(len(lengths))), self
            return
        for chosen in bucket(lengths, self.ids.numel(), max_padding, len(lengths)):
            longest = max(lengths[i] for i in chosen)
            yield chosen, PaddedRows(*(t[chosen, :longest] for t in (self.ids, self.mask, self.segment)))

    @property
    def positions(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and positions of the segments' tokens, shape (T,) each."""
        row, position = torch.nonzero(self.segment, as_tuple=True)
        return row, position

    @property
    def predictions(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows and positions that predict the segments' tokens, and these tokens, shape (T,) each."""
        row, position = self.positions
        predicted = position > 0
        row, position = row[predicted], position[predicted]
        return row, position - 1, self.ids[row, position]


def answer_rows(examples: Sequence[QuestionExample], filler: int) -> PaddedRows:
    """Lay out one row per answer: the question, then the answer, which is the segment.

    The rows of all right answers come first, in order of questions, then those of all wrong ones.
    """
    pairs = [(e.question, e.right) for e in examples] + [(e.question, w) for e in examples for w in e.wrong]
    return _rows([question + answer for question, answer in pairs], [len(q) for q, _ in pairs], filler)


def text_rows(texts: Sequence[Sequence[int]], filler: int) -> PaddedRows:
    """Lay out one row per text; the segment is the whole text."""
    return _rows(texts, [0] * len(texts), filler)


def _rows(rows: Sequence[Sequence[int]], starts: Sequence[int], filler: int) -> PaddedRows:
    ids, mask = pad(rows, filler)
    segment = torch.zeros_like(ids, dtype=torch.bool)
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        segment[number, start : len(row)] = True
    return PaddedRows(ids, mask, segment)
