"""The statistics of answers as input of the layer tests, read from a run's tables one row group at a time."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stratoscope.results import Storage, iter_table, read_table
from stratoscope.scoring import (
    AnswerObservations,
    AnswerSet,
    AnswerStatistics,
    EpsilonKind,
    Threshold,
    place_thresholds,
)
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import NUM_BINS
from stratoscope.tables.activations import statistics_of_tap

Epsilons = Sequence[tuple[EpsilonKind, float]]


def load_observations(
    storage: Storage, taps: Sequence[str], counted: tuple[float, ...], epsilons: Epsilons
) -> AnswerObservations:
    """Read a run's `pair_stats` and `answers`.

    Args:
        storage: the run's folder.
        taps: the taps that were read.
        counted: thresholds that were counted exactly.
        epsilons: kind and value of the requested thresholds.
    """
    thresholds = _place(storage, taps, counted, epsilons)
    parts: dict[tuple[str, str, str], list[AnswerStatistics]] = defaultdict(list)
    for tap in taps:
        for dataset, part, statistics in _read(storage, tap, counted):
            parts[dataset, tap, part].append(AnswerStatistics.measure(statistics, thresholds[tap]))
    answers = read_table(storage, "answers")
    datasets = pc.unique(answers["dataset"]).to_pylist()
    return AnswerObservations(
        {name: _answer_set(answers.filter(pc.equal(answers["dataset"], name))) for name in datasets},
        thresholds,
        {key: AnswerStatistics.concatenate(of_key) for key, of_key in parts.items()},
    )


def _read(storage: Storage, tap: str, counted: tuple[float, ...]) -> Iterator[tuple[str, str, Statistics]]:
    """Yield data set, part and statistics of shape (units, layers), in order of the table."""
    for table in iter_table(storage, "pair_stats"):
        statistics, units = statistics_of_tap(table, tap, counted)
        names = list(zip(units["dataset"].to_pylist(), units["part"].to_pylist(), strict=True))
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


def _answer_set(rows: pa.Table) -> AnswerSet:
    return AnswerSet.from_columns(
        rows["question_id"].to_pylist(),
        rows["right"].to_numpy(zero_copy_only=False).astype(bool),
        rows["tokens"].to_numpy(),
        rows["log_likelihood"].to_numpy(),
    )
