"""Layer tests of several data sets, and their agreement."""

import numpy as np
import pytest

from stratoscope.scoring import (
    AnswerObservations,
    AnswerSet,
    AnswerStatistics,
    AnswerView,
    Inference,
    compare_datasets,
    first_results,
    run_layer_tests,
)
from tests.scoring.test_layer_tests import answers, readings

VIEWS = [AnswerView("answer", "elementwise", 0), AnswerView("answer", "pooled", 0)]


def observations(reacting: dict[str, int], num_layers: int = 5) -> AnswerObservations:
    """Data sets of 40 questions; in each, wrong answers raise the variance of one layer."""
    sets, statistics = {}, {}
    for seed, (name, layer) in enumerate(reacting.items()):
        labels = answers(40, seed)
        reading = readings(labels, num_layers, seed + 10)
        reading.variance[labels.wrong, layer] *= 4
        sets[name] = AnswerSet(labels, (), np.zeros(len(labels.wrong)))
        statistics[name, "block", "answer"] = AnswerStatistics(
            reading.variance, reading.variance, reading.sparsity[..., None]
        )
    return AnswerObservations(sets, {"block": ()}, statistics)


def test_every_combination_is_tested_and_the_first_of_a_data_set_flags() -> None:
    results = list(run_layer_tests(observations({"a": 1, "b": 3}), ["eavss", "ratio"], VIEWS, Inference(draws=99)))
    assert [(r.dataset, r.definition, r.view.variance) for r in results[:4]] == [
        ("a", "eavss", "elementwise"),
        ("a", "ratio", "elementwise"),
        ("a", "eavss", "pooled"),
        ("a", "ratio", "pooled"),
    ]
    first = first_results(results)
    assert [(r.dataset, r.definition) for r in first] == [("a", "eavss"), ("b", "eavss")]
    assert [np.flatnonzero(r.layer_tests[0].flagged).tolist() for r in first] == [[1], [3]]
    assert {r.num_questions for r in results} == {40}


@pytest.mark.parametrize(("layers", "both"), [((2, 2), 1), ((1, 3), 0)])
def test_agreement_counts_the_layers_that_both_flag(layers: tuple[int, int], both: int) -> None:
    results = run_layer_tests(
        observations(dict(zip("ab", layers, strict=True))), ["eavss"], VIEWS[:1], Inference(draws=99)
    )
    (agreement,) = compare_datasets(list(results))
    assert (agreement.dataset, agreement.other, agreement.tap) == ("a", "b", "block")
    assert agreement.flagged_by_both == both
    assert 0 <= agreement.same_sign <= 1
