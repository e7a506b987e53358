"""From trials to a front, a choice and random sets."""

import math
from dataclasses import replace

import numpy as np
import pytest

from stratoscope.pruning import (
    ObjectiveFunction,
    PruningCandidate,
    RandomSetComparison,
    TrialResult,
    best_objectives,
    choose,
    pareto_front,
    random_sets,
    reference_trial,
)
from stratoscope.pruning.evaluation import WORST
from tests.pruning.examples import evaluation


def trial(trial_id: str, dropped: tuple[int, ...], raw: float, status: str = "done", metric: str = "") -> TrialResult:
    candidate = PruningCandidate(metric, None, None, None, None, None, 0.1, False) if metric else None
    return TrialResult(trial_id, "grid", candidate, dropped, evaluation(raw, dropped), raw, raw, 1.0, status)


def test_the_front_holds_the_trials_that_no_other_dominates() -> None:
    trials = [
        trial("0", (1,), 0.95),
        trial("1", (2,), 0.97),
        trial("2", (1, 2), 0.80),
        trial("3", (1, 2, 3), 0.85),
        trial("4", (1, 2, 3, 4), 0.2),
        trial("5", (0, 5), 0.99, status="stopped"),
        trial("6", (5,), 0.97),
    ]
    front = pareto_front(trials)
    assert [t.trial_id for t in front] == ["1", "3", "4"]
    assert choose(front, 0.9) is front[0]
    assert choose(front, 0.8) is front[1]
    assert choose(front, 0.99) is front[0]
    assert choose([], 0.9) is None


def test_the_reference_is_avss_of_the_same_size_or_the_first_score() -> None:
    trials = [
        trial("0", (1,), 0.9, metric="variance"),
        trial("1", (1, 2), 0.8, metric="variance"),
        trial("2", (1, 3), 0.7, metric="avss"),
        trial("3", (1, 4), 0.9),
    ]
    assert reference_trial(trials, 2) is trials[2]
    assert reference_trial(trials, 1) is trials[0]
    assert reference_trial(trials, 3) is None


def test_random_sets_are_seeded_distinct_and_not_the_excluded_one() -> None:
    sets = random_sets(range(30), 8, 20, 0, (1, 2))
    assert sets == random_sets(range(30), 8, 20, 0, (1, 2))
    assert sets != random_sets(range(30), 8, 20, 1, (1, 2))
    assert len(set(sets)) == 20
    assert all(len(set(s)) == 8 and s == tuple(sorted(s)) and max(s) < 30 for s in sets)
    assert sorted(random_sets(range(3), 1, 20, 0, (1,))) == [(0,), (2,)]


def test_the_verdict_against_random_sets_says_where_they_win() -> None:
    best = RandomSetComparison(0.9, tuple(np.linspace(0.3, 0.8, 20)))
    assert best.verdict.startswith("It retains more than random sets of its size, than 20 of 20: ")
    assert best.p_value == pytest.approx(1 / 21)
    tied = RandomSetComparison(0.5, (0.4, 0.5, 0.6, 0.3) * 5)
    assert "does not retain more than random sets of its size, beyond chance: more than 10 of 20" in tied.verdict
    assert tied.p_value == pytest.approx(11 / 21)
    assert RandomSetComparison(0.5, ()).verdict == "No random sets were drawn."


@pytest.mark.parametrize("num_sets", [1, 2, 18])
def test_too_few_random_sets_show_no_difference(num_sets: int) -> None:
    best = RandomSetComparison(0.9, (0.1,) * num_sets)
    assert best.p_value == best.least_p == pytest.approx(1 / (1 + num_sets))
    assert "no difference could be shown with" in best.verdict
    assert f"{num_sets} random set" in best.verdict
    enough = RandomSetComparison(0.9, (0.1,) * num_sets, level=0.6)
    assert "It retains more" in enough.verdict


def test_one_number_covers_retention_and_size() -> None:
    objective = ObjectiveFunction("retention_raw", 0.9)
    assert objective(evaluation(0.92), 0.25) == 0.25
    assert objective(evaluation(0.89), 0.4) == pytest.approx(-0.01)
    assert ObjectiveFunction("retention_raw")(evaluation(0.89), 0.4) == 0.89
    assert ObjectiveFunction("retention_above_chance")(evaluation(0.89), 0.4) == WORST
    assert ObjectiveFunction("bits_per_byte")(evaluation(0.89, bits=1.5), 0.4) == -1.5
    kept = replace(evaluation(0.89), likelihood=0.79)
    assert ObjectiveFunction("likelihood")(kept, 0.4) == 0.79
    assert ObjectiveFunction("mixed")(kept, 0.4) == pytest.approx(0.84)
    assert ObjectiveFunction("mixed")(evaluation(0.89), 0.4) == WORST


def test_the_best_objective_so_far_is_that_of_as_many_layers_on_as_many_items() -> None:
    trials = [
        trial("0", (1,), 0.9),
        trial("1", (1, 2), 0.7),
        trial("2", (3,), 0.8),
        replace(trial("3", (1, 3), 0.99), share_of_items=0.5),
        trial("4", (2, 3), 0.75),
        replace(trial("5", (4,), 0.0), objective=None, share_of_items=0.0),
    ]
    assert best_objectives(trials) == [0.9, 0.7, 0.9, 0.99, 0.75, None]


def test_sets_without_a_retention_are_not_compared_as_numbers() -> None:
    nan = math.nan
    assert RandomSetComparison(nan, (0.5,) * 20).verdict == (
        "No comparison with random sets: the chosen set's retention on held-out items is not defined."
    )
    assert "the random sets' retention" in RandomSetComparison(0.9, (nan,) * 20).verdict
    some = RandomSetComparison(0.9, (0.5,) * 18 + (nan,) * 2)
    assert "50.0% on average and 50.0% at best (p = 0.143; 2 without a retention count as no worse)" in some.verdict
