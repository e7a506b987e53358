"""Layer tests of several data sets under several definitions and views, and how far the data sets agree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stratoscope.scoring.answers import AnswerObservations, AnswerView
from stratoscope.scoring.definitions import DEFINITIONS
from stratoscope.scoring.layer_tests import Inference, LayerTestResult, find_layers
from stratoscope.statistics import spearman


@dataclass(frozen=True, eq=False)
class DatasetResult:
    """The layer tests of one data set under one definition and view."""

    dataset: str
    view: AnswerView
    definition: str
    num_questions: int
    """Number of questions that the tests use."""
    layer_tests: tuple[LayerTestResult, ...]
    """Results, one for each tap."""


@dataclass(frozen=True)
class DatasetAgreement:
    """Agreement of two data sets at a tap."""

    tap: str
    dataset: str
    other: str
    rank_correlation: float
    """Rank correlation of EAVSS over layers."""
    same_sign: float
    """Share of layers whose EAVSS has the same sign."""
    flagged_by_both: int
    """Number of layers that both data sets flag."""


def run_layer_tests(
    observations: AnswerObservations, definitions: Sequence[str], views: Sequence[AnswerView], inference: Inference
) -> Iterator[DatasetResult]:
    """Test every combination of data set, view and definition.

    Args:
        observations: the answers and their statistics.
        definitions: names of definitions of EAVSS.
        views: views of the answers.
        inference: settings of the tests.

    Yields:
        Results, data set by data set. The first of a data set is the one that flags its layers. Views in which no layer
        can be read have none.
    """
    for dataset, answers in observations.answers.items():
        labels = answers.labels
        num_questions = int(labels.testable.sum())
        for view in views:
            readings = observations.readings(dataset, view)
            for name in definitions if readings else ():
                results = find_layers(DEFINITIONS[name], readings, labels, inference)
                yield DatasetResult(dataset, view, name, num_questions, tuple(results))


def first_results(results: Sequence[DatasetResult]) -> list[DatasetResult]:
    """Return the first result of each data set."""
    return list({result.dataset: result for result in reversed(results)}.values())[::-1]


def compare_datasets(results: Sequence[DatasetResult]) -> Iterator[DatasetAgreement]:
    """Yield the agreement of each pair of data sets at each tap.

    Args:
        results: one result for each data set, all of the same definition and view.
    """
    for index, result in enumerate(results):
        for other in results[index + 1 :]:
            of_other = {test.tap: test for test in other.layer_tests}
            for a, b in ((test, of_other[test.tap]) for test in result.layer_tests if test.tap in of_other):
                known = ~np.isnan(a.eavss + b.eavss)
                yield DatasetAgreement(
                    tap=a.tap,
                    dataset=result.dataset,
                    other=other.dataset,
                    rank_correlation=spearman(a.eavss[known], b.eavss[known]),
                    same_sign=float((np.sign(a.eavss) == np.sign(b.eavss))[known].mean()),
                    flagged_by_both=int((a.flagged & b.flagged).sum()),
                )
