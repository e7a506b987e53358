"""The statistics of answers as contrasts need them, read from a run's tables a row group at a time."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.pipelines.hallucination.config import Part
from stratoscope.pipelines.sharded.rows import statistics_of_tap
from stratoscope.results import Storage, iter_table, read_table
from stratoscope.scoring import EpsilonKind, Labels, Readings, Threshold, VarianceKind, place_thresholds, sparsity
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import NUM_BINS

Epsilons = Sequence[tuple[EpsilonKind, float]]
TINY = 1e-30
"""Least variance: that of a tap that is silent for an answer."""


@dataclass(frozen=True)
class View:
    """One way to look at the answers."""

    part: Part
    variance: VarianceKind
    threshold: int
    """Its place among the thresholds that were asked for."""


@dataclass(frozen=True, eq=False)
class AnswerTable:
    """The answers of one data set, in the order of their readings."""

    labels: Labels
    question_ids: tuple[str, ...]
    log_likelihood: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels.wrong)


@dataclass(frozen=True, eq=False)
class _SeenAnswers:
    """Numbers per answer and layer, shape (N, L), of one data set, tap and part."""

    elementwise: NDArray[np.float64]
    pooled: NDArray[np.float64]
    sparsity: NDArray[np.float64]
    """Shape (N, L, thresholds)."""


@dataclass(frozen=True, eq=False)
class Observed:
    """All that contrasts are computed from."""

    answers: dict[str, AnswerTable]
    """By data set."""
    thresholds: dict[str, tuple[Threshold, ...]]
    """As applied, by tap."""
    _seen: dict[tuple[str, str, str], _SeenAnswers]
    """By data set, tap and part read."""

    @property
    def taps(self) -> tuple[str, ...]:
        """Taps that were read."""
        return tuple(self.thresholds)

    def without(self, datasets: Collection[str]) -> "Observed":
        """Leave data sets out."""
        return replace(self, answers={name: a for name, a in self.answers.items() if name not in datasets})

    def readings(self, dataset: str, view: View) -> dict[str, Readings]:
        """Return the readings of a data set's answers, by tap."""
        return {tap: self._reading(dataset, tap, view) for tap in self.taps}

    def _reading(self, dataset: str, tap: str, view: View) -> Readings:
        if view.part != "change":
            return _choose(self._seen[dataset, tap, view.part], view)
        labels = self.answers[dataset].labels
        answer = _choose(self._seen[dataset, tap, "answer"], view)
        question = _choose(self._seen[dataset, tap, "question"], view)
        return Readings(
            answer.variance / question.variance[labels.question], answer.sparsity / question.sparsity[labels.question]
        )


def _choose(seen: _SeenAnswers, view: View) -> Readings:
    variance = seen.elementwise if view.variance == "elementwise" else seen.pooled
    return Readings(np.maximum(variance, TINY), seen.sparsity[..., view.threshold])


def load_observed(storage: Storage, taps: Sequence[str], counted: tuple[float, ...], epsilons: Epsilons) -> Observed:
    """Read a run's `pair_stats` and `answers`.

    Args:
        storage: the run's folder.
        taps: those that were read.
        counted: thresholds that were counted exactly.
        epsilons: kind and value of the thresholds that are asked for.
    """
    thresholds = _place(storage, taps, counted, epsilons)
    gathered: dict[tuple[str, str, str], list[_SeenAnswers]] = defaultdict(list)
    for tap in taps:
        for dataset, part, statistics in _read(storage, tap, counted):
            below = np.stack([t.below(statistics) for t in thresholds[tap]], axis=-1)
            seen = _SeenAnswers(
                statistics.variance, statistics.pooled_variance, sparsity(below, statistics.count[..., None])
            )
            gathered[dataset, tap, part].append(seen)
    joined = {
        key: _SeenAnswers(
            *(np.concatenate([getattr(p, name) for p in parts]) for name in ("elementwise", "pooled", "sparsity"))
        )
        for key, parts in gathered.items()
    }
    return Observed(_answers(read_table(storage, "answers")), thresholds, joined)


def _read(storage: Storage, tap: str, counted: tuple[float, ...]) -> Iterator[tuple[str, str, Statistics]]:
    """Yield data set, part and statistics of shape (units, layers), in order of the table."""
    for table in iter_table(storage, "pair_stats"):
        statistics, first = statistics_of_tap(table, tap, counted)
        names = list(zip(first["dataset"].to_pylist(), first["part"].to_pylist(), strict=True))
        for dataset, part in dict.fromkeys(names):
            yield dataset, part, statistics[np.asarray([name == (dataset, part) for name in names])]


def _place(
    storage: Storage, taps: Sequence[str], counted: tuple[float, ...], epsilons: Epsilons
) -> dict[str, tuple[Threshold, ...]]:
    pooled = {tap: np.zeros(NUM_BINS, np.int64) for tap in taps}
    if any(kind == "quantile" for kind, _ in epsilons):
        for tap in taps:
            for _, part, statistics in _read(storage, tap, counted):
                if part != "question":
                    pooled[tap] += statistics.histogram.sum(axis=(0, 1))
    return {tap: place_thresholds(epsilons, counted, pooled[tap]) for tap in taps}


def _answers(table: pa.Table) -> dict[str, AnswerTable]:
    found = {}
    for dataset in pc.unique(table["dataset"]).to_pylist():
        rows = table.filter(pc.equal(table["dataset"], dataset))
        ids = rows["question_id"].to_pylist()
        numbers = {question: number for number, question in enumerate(dict.fromkeys(ids))}
        labels = Labels(
            np.asarray([numbers[question] for question in ids], np.int64),
            ~rows["right"].to_numpy(zero_copy_only=False).astype(bool),
            rows["tokens"].to_numpy(),
        )
        found[dataset] = AnswerTable(labels, tuple(numbers), rows["log_likelihood"].to_numpy())
    return found
