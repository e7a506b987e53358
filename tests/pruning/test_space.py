"""Candidates, suggestions and the layers they drop."""

import numpy as np
import optuna

from stratoscope.pruning import LayerScores, PruningCandidate, PruningSpace, ScoreKey
from stratoscope.pruning.scores import perplexity_ratios, span_lengths

SPACE = PruningSpace(
    metrics=("avss", "variance", "block_influence", "random", "last", "perplexity_drop"),
    taps=("block", "update"),
    variances=("elementwise", "pooled"),
    epsilons=(0.01, 0.1),
    quantiles=(0.2,),
    ratios=(0.1, 0.25),
    contiguous=(False, True),
    draws=3,
)


def test_the_grid_holds_every_combination_once() -> None:
    candidates = list(SPACE.grid())
    assert len(candidates) == len(set(candidates))
    assert len([c for c in candidates if c.metric == "avss"]) == 2 * 2 * 3 * 2 * 2
    assert all(c.epsilon is None and c.draw is None for c in candidates if c.metric == "variance")
    assert {c.contiguous for c in candidates if c.metric == "random"} == {False}


def test_candidates_and_suggestions_are_inverse() -> None:
    for candidate in SPACE.grid():
        assert SPACE.candidate(SPACE.config(candidate)) == candidate
    narrow = PruningSpace(metrics=("avss", "random"), taps=("block", "update"), ratios=(0.25,), epsilons=(0.01,))
    for candidate in narrow.grid():
        assert narrow.candidate(narrow.config(candidate)) == candidate
    assert narrow.config(next(narrow.grid())) == {"metric": "avss", "tap": "block"}


def test_optuna_suggests_candidates_of_the_grid() -> None:
    candidates = set(SPACE.grid())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    suggested = set()
    for _ in range(200):
        trial = study.ask()
        SPACE(trial)
        suggested.add(SPACE.candidate(trial.params))
    assert suggested <= candidates
    assert len(suggested) > 40


def test_there_is_one_starting_point_per_metric_and_ratio() -> None:
    points = SPACE.starting_points()
    assert [(p.metric, p.ratio) for p in points[:2]] == [("avss", 0.1), ("variance", 0.1)]
    assert len(points) == 6 * 2
    assert points[0] == PruningCandidate("avss", "update", "elementwise", "absolute", 0.01, None, 0.1, False)


def test_a_candidate_drops_the_least_important_layers() -> None:
    scores = {
        ScoreKey("avss", "update", "elementwise", "absolute", 0.01): LayerScores(np.array([3.0, 1.0, 2.0, 4.0])),
        ScoreKey("angular_distance", span=2): LayerScores(np.array([0.1, 0.1, 0.5, 0.6])),
        ScoreKey("sparsity", "update", None, "absolute", 0.01): LayerScores(np.array([0.1, 0.9, 0.2, 0.8]), False),
    }
    avss = PruningCandidate("avss", "update", "elementwise", "absolute", 0.01, None, 0.5, False)
    assert avss.dropped(scores, 4) == (1, 2)
    assert PruningCandidate("angular_distance", None, None, None, None, None, 0.5, False).dropped(scores, 4) == (0, 1)
    assert PruningCandidate("sparsity", "update", None, "absolute", 0.01, None, 0.5, False).dropped(scores, 4) == (1, 3)


def test_angular_distance_needs_a_span_length_per_ratio() -> None:
    space = PruningSpace(metrics=("angular_distance",), taps=("block",), ratios=(0.01, 0.25, 0.5))
    assert span_lengths(space, 8) == [2, 4]
    assert span_lengths(SPACE, 8) == []


def test_perplexity_ratios_are_powers_of_two_of_the_bits() -> None:
    np.testing.assert_allclose(perplexity_ratios(1.0, [1.0, 2.0, 3.0]).values, [1, 2, 4])
