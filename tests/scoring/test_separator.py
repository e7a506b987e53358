"""Flagged layers beside random ones and other baselines."""

import numpy as np
import pytest

from stratoscope.scoring import (
    DEFINITIONS,
    AnswerSet,
    AnswerView,
    Inference,
    Labels,
    Readings,
    SeparationSettings,
    Separator,
    separate_answers,
)
from stratoscope.scoring.separation import Folds, features
from tests.scoring.test_layer_tests import answers, readings

VIEW = AnswerView("answer", "elementwise", 0)
SETTINGS = SeparationSettings(folds=4, random_sets=10)
INFERENCE = Inference(draws=99)
NUM_LAYERS, REACTING = 6, 2


@pytest.fixture(scope="module")
def reacting() -> tuple[AnswerSet, Readings]:
    """Answers to 80 questions; wrong ones raise the variance of one layer."""
    labels = answers(80, 0)
    reading = readings(labels, NUM_LAYERS, 1)
    reading.variance[labels.wrong, REACTING] *= 4
    return AnswerSet(labels, (), np.zeros(len(labels.wrong))), reading


def test_the_reacting_layer_is_flagged_in_every_fold_and_beats_random_ones(
    reacting: tuple[AnswerSet, Readings],
) -> None:
    answer_set, reading = reacting
    results, random = separate_answers(
        answer_set, {"block": reading}, VIEW, DEFINITIONS["eavss"], settings=SETTINGS, inference=INFERENCE
    )
    by_features = {(r.features, r.layer): r for r in results}
    assert len(results) == 2 + 4 + NUM_LAYERS
    flagged = by_features["flagged", None]
    assert flagged.num_layers == 1
    assert flagged.auroc.value == by_features["layer", REACTING].auroc.value > 0.8
    assert flagged.over_random is not None
    assert flagged.over_random.value > 0.1
    assert by_features["likelihood", None].auroc.value == 0.5, "a constant separates nothing"
    assert len(random["block"]) == SETTINGS.random_sets
    assert by_features["random", None].auroc.value == pytest.approx(np.mean([r.value for r in random["block"]]))


def test_nothing_is_flagged_where_a_fold_has_too_few_questions() -> None:
    labels = answers(12, 2)
    separator = Separator(AnswerSet(labels, (), np.zeros(len(labels.wrong))), SETTINGS)
    flagged = separator.flag_layers(DEFINITIONS["eavss"], {"block": readings(labels, 3, 3)}, INFERENCE)
    assert flagged == {"block": [()] * 4}


def test_scores_of_random_sets_are_computed_once(reacting: tuple[AnswerSet, Readings]) -> None:
    answer_set, _ = reacting
    separator = Separator(answer_set, SETTINGS)
    table = np.random.default_rng(0).normal(size=(len(answer_set), NUM_LAYERS, 2))
    first = separator.evaluate_random(("block",), table, [2] * 4)
    again = separator.evaluate_random(("block",), np.zeros_like(table), [2] * 4)
    assert [a.value for a in again] == [a.value for a in first]


@pytest.mark.parametrize("c", [1.0, 100.0])
def test_all_layers_are_exactly_as_good_as_random_sets_of_all_layers(c: float) -> None:
    """Flagged layers and random ones are scored by one method, so that no set beats itself."""
    for seed in range(5):
        labels = answers(60, seed)
        separator = Separator(
            AnswerSet(labels, (), np.zeros(len(labels.wrong))), SeparationSettings(c=c, random_sets=3)
        )
        table = features(readings(labels, NUM_LAYERS, seed))
        comparison = separator.compare_with_random(("block",), table, [tuple(range(NUM_LAYERS))] * 5)
        assert comparison.difference.value == 0
        assert comparison.difference.interval(0.95) == (0, 0)
        assert comparison.difference.detectable() is None


def test_data_in_which_no_fold_flags_a_layer_could_show_nothing(reacting: tuple[AnswerSet, Readings]) -> None:
    answer_set, reading = reacting
    nothing = Separator(answer_set, SETTINGS).compare_with_random(("block",), features(reading), [()] * 4)
    assert nothing.difference.detectable() is None
    assert nothing.auroc.detectable() is None


def test_layers_that_cannot_be_read_are_in_no_set(reacting: tuple[AnswerSet, Readings]) -> None:
    """Random sets of as many layers are drawn from those that can be read."""
    answer_set, reading = reacting
    gaps = Readings(
        np.insert(reading.variance, [0, 3], np.nan, axis=1), np.insert(reading.sparsity, [0, 3], 0.5, axis=1)
    )
    without, with_gaps = (
        separate_answers(answer_set, {"block": r}, VIEW, DEFINITIONS["eavss"], settings=SETTINGS, inference=INFERENCE)
        for r in (reading, gaps)
    )
    assert [r.layer for r in with_gaps[0] if r.features == "layer"] == [1, 2, 3, 5, 6, 7]
    for a, b in zip(without[0], with_gaps[0], strict=True):
        assert (a.features, a.num_layers) == (b.features, b.num_layers)
        assert a.auroc.value == pytest.approx(b.auroc.value)
    assert [a.value for a in without[1]["block"]] == pytest.approx([a.value for a in with_gaps[1]["block"]])


def test_a_fold_may_hold_out_no_answer() -> None:
    labels = answers(40, 0)
    last = labels.question >= 36
    few = Labels(labels.question[~last], labels.wrong[~last], labels.tokens[~last])
    separator = Separator(AnswerSet(few, (), np.zeros(len(few.wrong))), SeparationSettings(folds=2))
    separator.folds = Folds(np.where(np.arange(36) % 2 == 0, 0, 2), 3)
    table = features(readings(few, 3, 1))
    assert 0 <= separator.evaluate(table, [(0,)] * 3).value <= 1
