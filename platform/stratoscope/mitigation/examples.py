"""What is trained on: questions with their answers, and texts, as token ids; and which of them a step takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stratoscope.models import bucket, pad


@dataclass(frozen=True)
class QuestionExample:
    """A question with one right answer and some wrong ones, as token ids."""

    question: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Corpus:
    """Everything that is trained on."""

    questions: tuple[QuestionExample, ...]
    texts: tuple[tuple[int, ...], ...]
    """For what is not to be forgotten, or is to be learnt again."""


@dataclass(frozen=True)
class Plan:
    """Which examples each step takes: a pure function of the step, so that a resumed run takes the same."""

    num_questions: int
    num_texts: int
    questions_per_step: int
    """Of all workers and micro-batches together."""
    texts_per_step: int
    micro_batches: int
    """Each step's examples are dealt to so many micro-batches, and each of these to the workers."""
    seed: int

    def questions(self, step: int) -> list[int]:
        """Return the numbers of a step's questions."""
        return _take(self.num_questions, self.questions_per_step, step, (self.seed, 0))

    def texts(self, step: int) -> list[int]:
        """Return the numbers of a step's texts."""
        return _take(self.num_texts, self.texts_per_step, step, (self.seed, 1))

    def micro(self, members: Sequence[int], number: int) -> list[int]:
        """Return the part of a step's examples that is one micro-batch of all workers."""
        return list(members[number :: self.micro_batches])

    @staticmethod
    def share(members: Sequence[int], rank: int, workers: int) -> list[int]:
        """Return a worker's part of a micro-batch."""
        return list(members[rank::workers])


def _take(total: int, size: int, step: int, seed: tuple[int, ...]) -> list[int]:
    """Return the step's examples of an endless sequence of shuffled epochs."""
    if not size or not total:
        return []
    taken: list[int] = []
    while len(taken) < size:
        epoch, place = divmod(step * size + len(taken), total)
        order = np.random.default_rng((*seed, epoch)).permutation(total)
        taken += order[place : place + size - len(taken)].tolist()
    return taken


@dataclass(frozen=True, eq=False)
class Rows:
    """Padded rows of tokens, and which places of them are looked at."""

    ids: torch.Tensor
    """Shape (rows, longest)."""
    mask: torch.Tensor
    """Same shape, 0 on padding."""
    segment: torch.Tensor
    """Whether a token is looked at: one stretch in each row; same shape."""

    def to(self, device: torch.device) -> "Rows":
        """Return the same on a device."""
        return Rows(self.ids.to(device), self.mask.to(device), self.segment.to(device))

    def parts(self, max_padding: float) -> "Iterator[tuple[list[int], Rows]]":
        """Yield the rows in groups of like length, each with the numbers of its rows, so that little is padding.

        Args:
            max_padding: largest share of a group that may be padding; 1 keeps all rows together.
        """
        lengths = self.mask.sum(dim=1).tolist()
        if max_padding >= 1:
            yield list(range(len(lengths))), self
            return
        for chosen in bucket(lengths, self.ids.numel(), max_padding, len(lengths)):
            longest = max(lengths[i] for i in chosen)
            yield chosen, Rows(*(t[chosen, :longest] for t in (self.ids, self.mask, self.segment)))

    @property
    def looked_at(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and places of the segments' tokens, shape (T,) each."""
        row, place = torch.nonzero(self.segment, as_tuple=True)
        return row, place

    @property
    def predicted(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows and places that predict the segments' tokens, and these tokens, shape (T,) each."""
        row, place = self.looked_at
        kept = place > 0
        row, place = row[kept], place[kept]
        return row, place - 1, self.ids[row, place]


def answer_rows(examples: Sequence[QuestionExample], filler: int) -> Rows:
    """Lay out one row per answer: its question, then its tokens, which are a segment.

    Rows are those of all right answers, in order of questions, then those of all wrong ones.
    """
    pairs = [(e.question, e.right) for e in examples] + [(e.question, w) for e in examples for w in e.wrong]
    return _rows([question + answer for question, answer in pairs], [len(q) for q, _ in pairs], filler)


def text_rows(texts: Sequence[Sequence[int]], filler: int) -> Rows:
    """Lay out one row per text; all of it is a segment."""
    return _rows(texts, [0] * len(texts), filler)


def _rows(rows: Sequence[Sequence[int]], starts: Sequence[int], filler: int) -> Rows:
    ids, mask = pad(rows, filler)
    segment = torch.zeros_like(ids, dtype=torch.bool)
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        segment[number, start : len(row)] = True
    return Rows(ids, mask, segment)
