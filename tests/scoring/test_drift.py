"""Layers that moved between two sets of scores."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from stratoscope.scoring.drift import Drift, NotComparableError, PromptScores, changed_norms, compare_layers

NUM_LAYERS = 6


def scores(log_avss: NDArray[np.float64], prompts: list[str]) -> PromptScores:
    return PromptScores(prompts, {"update": log_avss})


def compare(now: PromptScores, before: PromptScores, seed: int = 0) -> Drift:
    return compare_layers(now, before, level=0.05, min_shift=0.02, seed=seed)


def noise(seed: int, prompts: int = 40) -> NDArray[np.float64]:
    """Prompts differ far more than layers do, and alike at all layers, as real prompts do."""
    generator = np.random.default_rng(seed)
    own = generator.normal(0, 1, (prompts, 1))
    return np.arange(NUM_LAYERS) + own + generator.normal(0, 0.05, (prompts, NUM_LAYERS))


def names(number: int, first: int = 0) -> list[str]:
    return [f"p{first + i}" for i in range(number)]


def test_equal_scores_move_nothing() -> None:
    values = noise(0)
    drift = compare(scores(values, names(40)), scores(values, names(40)))
    assert drift.design == "same prompts"
    assert drift.moved == []
    assert {s.p_value for s in drift.shifts} == {1.0}
    assert drift.rank_correlation == {"update": 1.0}
    assert drift.max_shift == 0.0


def test_the_layer_that_was_changed_is_named_and_measured() -> None:
    values = noise(0)
    changed = values + np.random.default_rng(1).normal(0, 0.01, values.shape)
    changed[:, 3] += 0.2
    # In another order: prompts are matched by their ids.
    order = np.random.default_rng(2).permutation(40)
    drift = compare(scores(changed[order], [names(40)[i] for i in order]), scores(values, names(40)))
    assert drift.moved == [3]
    shift = drift.shifts[3]
    assert shift.low < 0.2 < shift.high
    assert drift.max_shift == shift.shift == pytest.approx(0.2, abs=0.01)


def test_a_change_too_small_to_matter_is_no_move() -> None:
    values = noise(0)
    shift = np.random.default_rng(1).normal(0.01, 1e-4, values.shape)
    drift = compare(scores(values + shift, names(40)), scores(values, names(40)))
    assert drift.shifts[0].p_value < 0.05
    assert drift.moved == []


def test_other_prompts_are_compared_as_groups() -> None:
    before = scores(noise(0), names(40))
    drift = compare(scores(noise(1), names(40, first=40)), before)
    assert drift.design == "other prompts"
    assert drift.moved == []
    assert compare(scores(noise(1) + 3.0, names(40, first=40)), before).moved == list(range(NUM_LAYERS))


def test_other_prompts_raise_no_more_false_alarms_than_the_level_says() -> None:
    """Of 100 comparisons without a change, more than 11 alert at 5 % in under one of a hundred such tests."""
    alarms = 0
    for index in range(100):
        before, now = (scores(noise(2 * index + i, 20), names(20, first=20 * i)) for i in range(2))
        alarms += bool(compare(now, before, seed=index).moved)
    assert alarms <= 11


def test_scores_that_cannot_be_compared_give_the_reason() -> None:
    before = scores(noise(0), names(40))
    with pytest.raises(NotComparableError, match="the model has another number of layers"):
        compare(scores(noise(0)[:, :5], names(40)), before)
    with pytest.raises(NotComparableError, match="4 prompts are too few to compare"):
        compare(scores(noise(0, 4), names(4)), before)
    with pytest.raises(NotComparableError, match="no tap in common"):
        compare(PromptScores(names(40), {"block": noise(0)}), before)


def test_few_prompts_at_a_low_level_could_show_no_move() -> None:
    before, now = scores(noise(0, 8), names(8)), scores(noise(0, 8) + 3.0, names(8))
    drift = compare_layers(now, before, level=0.001, min_shift=0.02, seed=0)
    assert drift.moved == []
    assert drift.limit == "no difference could be shown with 8 prompts (the least possible p is 0.0078)"
    assert compare_layers(now, before, level=0.05, min_shift=0.02, seed=0).limit is None


def test_prompts_without_a_finite_score_are_left_out() -> None:
    values = noise(0, 3)
    values[1, 2] = np.nan
    assert scores(values, names(3)).finite().prompts == ["p0", "p2"]


def test_prompts_that_are_left_out_are_told() -> None:
    values = noise(0)
    broken = values.copy()
    broken[:12, 2] = np.nan
    before, now = scores(values, names(40)), scores(broken, names(40)).finite()
    drift = compare(now, before)
    assert drift.prompts == 28
    assert drift.notes == ("12 of 40 prompts of this run have scores that are NaN or infinite",)
    assert compare(before, now).notes == ("12 of 40 prompts of the earlier run have scores that are NaN or infinite",)
    broken[:, 2] = np.nan
    with pytest.raises(NotComparableError, match="0 prompts are too few to compare; 40 of 40 prompts of this run"):
        compare(scores(broken, names(40)).finite(), before)


def test_a_layer_that_only_one_run_could_read_is_told_and_does_not_move() -> None:
    values = noise(0)
    partly = values.copy()
    partly[:, 3] = 0
    whole = scores(values, names(40))
    drift = compare(replace(scores(partly, names(40)), unread=frozenset({("update", 3)})), whole)
    assert drift.moved == []
    assert drift.notes == ("layers 3 at tap update have activations in only one of the runs",)
    unread = frozenset({("update", 3)})
    both = [replace(own, unread=unread) for own in (scores(partly, names(40)), whole)]
    assert compare(*both).notes == ()


def test_the_order_of_layers_is_that_of_layers_with_the_tap() -> None:
    """A hybrid has the tap in every other layer, and their order is reversed."""
    values = np.tile(np.array([0.0, 1.0, 0.0, 2.0, 0.0, 3.0]), (40, 1))
    reversed_values = np.tile(np.array([0.0, 3.0, 0.0, 2.0, 0.0, 1.0]), (40, 1))
    unread = frozenset({("update", 0), ("update", 2), ("update", 4)})
    now, before = (replace(scores(own, names(40)), unread=unread) for own in (values, reversed_values))
    assert compare(now, before).rank_correlation["update"] == pytest.approx(-1)
    alone = frozenset({("update", layer) for layer in range(5)})
    assert np.isnan(compare(replace(now, unread=alone), before).rank_correlation["update"])


def test_norms_that_differ_by_rounding_are_equal() -> None:
    assert changed_norms(np.array([1.0, 2.0, np.nan]), np.array([1.0 + 1e-9, 2.1, np.nan])) == (1,)
