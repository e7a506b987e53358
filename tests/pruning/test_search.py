"""The parts of the search that need neither a model nor Ray."""

import math

import numpy as np
import optuna
import pytest

from stratoscope.errors import InputError
from stratoscope.evaluation import Estimate
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.search.config import SearchConfig, SpaceSection
from stratoscope.pipelines.search.pruning.trial import WORST, ObjectiveFunction
from stratoscope.pipelines.search.pruning.worker import Evaluation
from stratoscope.pruning.selection import AgainstRandom, TrialResult, choose, pareto_front, random_sets
from stratoscope.pruning.space import LayerScores, PruningCandidate, PruningSpace, ScoreKey

SECTION = SpaceSection(
    metrics=["avss", "variance", "block_influence", "random", "last", "perplexity_drop"],
    taps=["block", "update"],
    variance=["elementwise", "pooled"],
    epsilons=[0.01, 0.1],
    quantiles=[0.2],
    ratios=[0.1, 0.25],
    contiguous=[False, True],
    draws=3,
)


def outcome(raw: float, dropped: tuple[int, ...] = (), above: float = math.nan, bits: float = math.nan) -> Evaluation:
    return Evaluation(dropped, {}, Estimate(raw, raw, raw), Estimate(above, above, above), bits, 0.0)


def tried(trial_id: str, dropped: tuple[int, ...], raw: float, status: str = "done") -> TrialResult:
    return TrialResult(trial_id, "grid", None, dropped, outcome(raw, dropped), raw, raw, 1.0, status)


def test_the_grid_holds_every_combination_once() -> None:
    candidates = list(PruningSpace(SECTION).grid())
    assert len(candidates) == len(set(candidates))
    of_avss = [c for c in candidates if c.metric == "avss"]
    assert len(of_avss) == 2 * 2 * 3 * 2 * 2
    assert all(c.epsilon is None and c.draw is None for c in candidates if c.metric == "variance")
    assert {c.contiguous for c in candidates if c.metric == "random"} == {False}


def test_candidates_and_suggestions_mean_each_other() -> None:
    space = PruningSpace(SECTION)
    for candidate in space.grid():
        assert space.candidate(space.config(candidate)) == candidate
    narrow = PruningSpace(SpaceSection(metrics=["avss", "random"], ratios=[0.25], epsilons=[0.01], draws=1))
    for candidate in narrow.grid():
        assert narrow.candidate(narrow.config(candidate)) == candidate


def test_what_optuna_suggests_is_in_the_grid() -> None:
    space = PruningSpace(SECTION)
    candidates = set(space.grid())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = set()
    for _ in range(200):
        trial = study.ask()
        space(trial)
        found.add(space.candidate(trial.params))
    assert found <= candidates
    assert len(found) > 40


def test_starting_points_are_one_a_metric_and_ratio() -> None:
    points = PruningSpace(SECTION).starting_points()
    assert [(p.metric, p.ratio) for p in points[:2]] == [("avss", 0.1), ("variance", 0.1)]
    assert len(points) == 6 * 2
    assert points[0] == PruningCandidate("avss", "update", "elementwise", "absolute", 0.01, None, 0.1, False)


def test_a_candidate_drops_what_its_scores_say() -> None:
    scores = {
        ScoreKey("avss", "update", "elementwise", "absolute", 0.01): LayerScores(np.array([3.0, 1.0, 2.0, 4.0])),
        ScoreKey("angular_distance", span=2): LayerScores(np.array([0.1, 0.1, 0.5, 0.6])),
        ScoreKey("sparsity", "update", None, "absolute", 0.01): LayerScores(np.array([0.1, 0.9, 0.2, 0.8]), False),
    }
    avss = PruningCandidate("avss", "update", "elementwise", "absolute", 0.01, None, 0.5, False)
    assert avss.dropped(scores, 4) == (1, 2)
    assert PruningCandidate("angular_distance", None, None, None, None, None, 0.5, False).dropped(scores, 4) == (0, 1)
    assert PruningCandidate("sparsity", "update", None, "absolute", 0.01, None, 0.5, False).dropped(scores, 4) == (1, 3)


def test_the_front_holds_what_no_other_beats() -> None:
    trials = [
        tried("0", (1,), 0.95),
        tried("1", (2,), 0.97),
        tried("2", (1, 2), 0.80),
        tried("3", (1, 2, 3), 0.85),
        tried("4", (1, 2, 3, 4), 0.2),
        tried("5", (0, 5), 0.99, status="stopped"),
        tried("6", (5,), 0.97),
    ]
    front = pareto_front(trials)
    assert [t.trial_id for t in front] == ["1", "3", "4"]
    assert choose(front, 0.9) is front[0]
    assert choose(front, 0.8) is front[1]
    assert choose(front, 0.99) is front[0]
    assert choose([], 0.9) is None


def test_random_sets_are_seeded_different_and_not_the_chosen_one() -> None:
    sets = random_sets(30, 8, 20, 0, (1, 2))
    assert sets == random_sets(30, 8, 20, 0, (1, 2))
    assert sets != random_sets(30, 8, 20, 1, (1, 2))
    assert len(set(sets)) == 20
    assert all(len(set(s)) == 8 and s == tuple(sorted(s)) and max(s) < 30 for s in sets)
    assert sorted(random_sets(3, 1, 20, 0, (1,))) == [(0,), (2,)]


def test_the_verdict_against_random_sets_says_so_where_they_win() -> None:
    won = AgainstRandom(0.9, tuple(np.linspace(0.3, 0.8, 20)))
    assert "beats all 20" in won.verdict
    assert won.p_value == pytest.approx(1 / 21)
    lost = AgainstRandom(0.5, (0.4, 0.5, 0.6, 0.3))
    assert "does not beat all random sets of its size, but 2 of 4" in lost.verdict
    assert lost.p_value == pytest.approx(3 / 5)


def test_one_number_for_retention_and_size() -> None:
    goal = ObjectiveFunction("retention_raw", 0.9)
    keeps, loses = goal.of(outcome(0.92), 0.25), goal.of(outcome(0.89), 0.4)
    assert keeps == 0.25
    assert loses == pytest.approx(-0.01)
    assert ObjectiveFunction("retention_raw", None).of(outcome(0.89), 0.4) == 0.89
    assert ObjectiveFunction("retention_above_chance", None).of(outcome(0.89), 0.4) == WORST
    assert ObjectiveFunction("bits_per_byte", None).of(outcome(0.89, bits=1.5), 0.4) == -1.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": {"metrics": ["avs"]}}, "did you mean 'avss'"),
        ({"space": {"ratios": [1.0]}}, "between 0 and 1"),
        ({"space": {"ratios": [0.1, 0.1]}}, "given twice"),
        ({"space": {"epsilons": []}}, "needs a threshold"),
        ({"search": {"rungs": [0.5, 0.25, 1.0]}}, "rungs must rise"),
        ({"search": {"algorithm": "tpe", "objective": "bits_per_byte"}}, "single ratio"),
        ({"target": "prunning"}, "target"),
    ],
)
def test_wrong_fields_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(SearchConfig, fields)
