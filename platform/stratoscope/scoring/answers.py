"""Answers to questions: their labels, and the statistics of their activations that definitions of EAVSS read."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.definitions import Array, Readings
from stratoscope.scoring.measures import Threshold, VarianceKind, sparsity
from stratoscope.statistics import Design, Statistics

ReadPart = Literal["answer", "last", "question"]
"""Tokens whose activations are read: all tokens of an answer, its last one, or those of the question."""
Part = Literal["answer", "last", "change"]
"""Part that is contrasted: an answer, its last token, or an answer relative to its question."""
MIN_VARIANCE = 1e-30
"""Lower bound of the variance, which replaces 0, the variance of a tap with only zeros for an answer."""
MOST = 0.5
"""Share of a data set's answers from which on a layer, and not the answers, cannot be read (ours)."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of N answers to Q questions."""

    question: NDArray[np.int64]
    """Number of each answer's question, from 0 to Q - 1, shape (N,)."""
    wrong: NDArray[np.bool_]
    """Whether an answer is wrong, shape (N,)."""
    tokens: NDArray[np.int64]
    """Length of each answer, shape (N,)."""

    @property
    def num_questions(self) -> int:
        """Number of questions."""
        return int(self.question.max()) + 1 if len(self.question) else 0

    @property
    def design(self) -> Design:
        """Paired where questions have answers of both kinds; grouped where none has."""
        return "paired" if self.has_both.any() else "grouped"

    @property
    def has_both(self) -> NDArray[np.bool_]:
        """Whether a question has answers of both kinds, shape (Q,)."""
        wrong, right = (np.bincount(self.question[m], minlength=self.num_questions) for m in (self.wrong, ~self.wrong))
        return np.asarray((wrong > 0) & (right > 0))

    @property
    def testable(self) -> NDArray[np.bool_]:
        """Whether a test can use a question, shape (Q,)."""
        return self.has_both if self.design == "paired" else np.bincount(self.question) == 1

    def select_questions(self, mask: NDArray[np.bool_]) -> tuple["Labels", NDArray[np.bool_]]:
        """Select questions.

        Args:
            mask: the questions to keep, shape (Q,).

        Returns:
            The labels of their answers, and which answers these are, shape (N,).
        """
        answers = mask[self.question]
        renumbered = np.cumsum(mask) - 1
        return Labels(renumbered[self.question[answers]], self.wrong[answers], self.tokens[answers]), answers


@dataclass(frozen=True, eq=False)
class AnswerSet:
    """The answers of one data set, in the order of their statistics."""

    labels: Labels
    question_ids: tuple[str, ...]
    """Ids of the questions, by number."""
    log_likelihood: Array
    """Log-likelihood of each answer given its question, shape (N,)."""

    @classmethod
    def from_columns(
        cls, question_id: Sequence[str], right: NDArray[np.bool_], tokens: NDArray[np.int64], log_likelihood: Array
    ) -> "AnswerSet":
        """Number the questions in order of their first answer; each argument has one value per answer."""
        numbers = {question: number for number, question in enumerate(dict.fromkeys(question_id))}
        question = np.asarray([numbers[name] for name in question_id], np.int64)
        return cls(Labels(question, ~right, tokens), tuple(numbers), log_likelihood)

    def __len__(self) -> int:
        return len(self.labels.wrong)

    def __getitem__(self, answers: NDArray[np.bool_]) -> "AnswerSet":
        """Select answers; questions keep their numbers."""
        labels = Labels(*(getattr(self.labels, field.name)[answers] for field in fields(Labels)))
        return AnswerSet(labels, self.question_ids, self.log_likelihood[answers])


@dataclass(frozen=True)
class AnswerView:
    """The statistics that represent an answer at a layer: a part, a kind of variance and a sparsity threshold."""

    part: Part
    variance: VarianceKind
    threshold: int
    """Index of the sparsity threshold."""


@dataclass(frozen=True, eq=False)
class AnswerStatistics:
    """Statistics by answer and layer, shape (N, L), of one data set, tap and part."""

    elementwise: Array
    """Variance over all activations; NaN where none is finite."""
    pooled: Array
    """Variance over the width of the token mean; NaN where there is no such mean."""
    sparsity: Array
    """Sparsity under each threshold, shape (N, L, thresholds)."""

    @classmethod
    def measure(cls, statistics: Statistics, thresholds: Sequence[Threshold]) -> "AnswerStatistics":
        """Return the statistics of answers under some thresholds, from sufficient statistics of shape (N, L)."""
        below = np.stack([threshold.below(statistics) for threshold in thresholds], axis=-1)
        share = sparsity(below, statistics.count[..., None])
        return cls(statistics.variance, statistics.pooled_variance, share)

    @classmethod
    def concatenate(cls, parts: Sequence["AnswerStatistics"]) -> "AnswerStatistics":
        """Concatenate answers."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __getitem__(self, answers: NDArray[np.bool_]) -> "AnswerStatistics":
        """Select answers."""
        return AnswerStatistics(*(getattr(self, field.name)[answers] for field in fields(self)))

    def readings(self, view: AnswerView) -> Readings:
        """Return the variance and the sparsity that a view selects."""
        variance = self.elementwise if view.variance == "elementwise" else self.pooled
        return Readings(np.maximum(variance, MIN_VARIANCE), self.sparsity[..., view.threshold])


@dataclass(frozen=True, eq=False)
class AnswerObservations:
    """The answers of all data sets with their statistics: the input of every layer test."""

    answers: dict[str, AnswerSet]
    """Answers, by data set."""
    thresholds: dict[str, tuple[Threshold, ...]]
    """Sparsity thresholds as applied, by tap."""
    statistics: dict[tuple[str, str, str], AnswerStatistics]
    """Statistics, by data set, tap and part read."""

    @property
    def taps(self) -> tuple[str, ...]:
        """Taps that were read."""
        return tuple(self.thresholds)

    def without(self, datasets: Collection[str]) -> "AnswerObservations":
        """Leave data sets out."""
        return replace(self, answers={name: a for name, a in self.answers.items() if name not in datasets})

    def readings(self, dataset: str, view: AnswerView) -> dict[str, Readings]:
        """Return the readings of a data set's answers, by tap; a tap at which no layer can be read has none.

        A layer that cannot be read in all answers is NaN in all of them.
        """
        by_tap = {tap: self._reading(dataset, tap, view) for tap in self.taps}
        return {tap: reading.masked() for tap, reading in by_tap.items() if reading.readable.any()}

    def without_unreadable(self, views: Sequence[AnswerView]) -> "AnswerObservations":
        """Leave out answers that cannot be read, in one of the views, at a layer that most answers can be read at.

        A forward pass that overflows in a few answers thus costs these answers and not the layers.
        """
        readable = {dataset: self._readable_answers(dataset, views) for dataset in self.answers}
        kept = {
            (dataset, tap, part): of_part if part == "question" else of_part[readable[dataset]]
            for (dataset, tap, part), of_part in self.statistics.items()
        }
        return replace(self, answers={n: a[readable[n]] for n, a in self.answers.items()}, statistics=kept)

    def _readable_answers(self, dataset: str, views: Sequence[AnswerView]) -> NDArray[np.bool_]:
        """Return which answers are kept, shape (N,)."""
        readable = np.ones(len(self.answers[dataset]), bool)
        for tap, view in product(self.taps, views):
            missing = np.isnan(self._reading(dataset, tap, view).variance)
            readable &= ~(missing & (missing.mean(axis=0) < MOST)).any(axis=1)
        return readable

    def _reading(self, dataset: str, tap: str, view: AnswerView) -> Readings:
        if view.part != "change":
            return self.statistics[dataset, tap, view.part].readings(view)
        question_of = self.answers[dataset].labels.question
        answer, question = (self.statistics[dataset, tap, part].readings(view) for part in ("answer", "question"))
        return Readings(
            answer.variance / question.variance[question_of], answer.sparsity / question.sparsity[question_of]
        )
