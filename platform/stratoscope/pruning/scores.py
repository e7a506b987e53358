"""The layer scores of every candidate of a space."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stratoscope.pruning.space import LayerScores, PruningSpace, ScoreKey
from stratoscope.scoring import METRICS, Observations, ScoringSettings, num_dropped, random_scores, score_layers

PERPLEXITY_DROP = "perplexity_drop"
"""Metric that is an evaluation: the rise of perplexity when a layer alone is dropped."""
FEWEST_DRAWS = 2
"""Bootstrap draws of the scoring; the search does not use its intervals."""


def scoring_settings(space: PruningSpace, seed: int) -> ScoringSettings:
    """Return the settings that score a space; they leave out metrics that need no statistics of activations."""
    return ScoringSettings(
        metrics=tuple(m for m in space.metrics if m not in ("random", "angular_distance", PERPLEXITY_DROP)),
        variances=space.variances,
        epsilons=tuple(space.thresholds or [("absolute", 0.01)]),
        draws=FEWEST_DRAWS,
        splits=1,
        seed=seed,
    )


def compute_scores(
    space: PruningSpace, observations: Observations, weight_norm: NDArray[np.float64], seed: int
) -> dict[ScoreKey, LayerScores]:
    """Compute the scores of every candidate, except for those of `PERPLEXITY_DROP`.

    Args:
        space: the candidates.
        observations: statistics of all calibration prompts, with the thresholds of `scoring_settings`.
        weight_norm: Frobenius norm of each layer's weights, shape (layers,).
        seed: seed of the metric random.
    """
    settings = scoring_settings(space, seed)
    scores: dict[ScoreKey, LayerScores] = {}
    for name in settings.metrics:
        scorings = score_layers(observations, weight_norm, replace(settings, metrics=(name,)))
        for key, scoring in zip(_keys(name, space, settings), scorings, strict=True):
            scores[key] = LayerScores(scoring.scores, METRICS[name].high_is_important, scoring.epsilon)
    if "random" in space.metrics:
        for draw, values in enumerate(random_scores(len(weight_norm), space.draws, seed)):
            scores[ScoreKey("random", draw=draw)] = LayerScores(values)
    if "angular_distance" in space.metrics:
        for length in span_lengths(space, len(weight_norm)):
            spans = {span: angle for span, angle in observations.angles.items() if span[1] == length}
            only = replace(settings, metrics=("angular_distance",))
            scoring = next(score_layers(replace(observations, angles=spans), weight_norm, only))
            scores[ScoreKey("angular_distance", span=length)] = LayerScores(scoring.scores)
    return scores


def span_lengths(space: PruningSpace, num_layers: int) -> list[int]:
    """Return the lengths of the spans that the metric angular_distance needs."""
    if "angular_distance" not in space.metrics:
        return []
    return sorted({count for ratio in space.ratios if (count := num_dropped(ratio, num_layers))})


def perplexity_ratios(whole_bits: float, bits: Sequence[float]) -> LayerScores:
    """Return, for each layer, the perplexity per byte without that layer divided by that of the whole model.

    Args:
        whole_bits: bits per byte of the whole model.
        bits: bits per byte without each layer, shape (layers,).

    Source: the criterion of SLEB (arXiv 2402.09025); the ratio per byte is ours.
    """
    return LayerScores(2 ** (np.asarray(bits) - whole_bits))


def _keys(name: str, space: PruningSpace, settings: ScoringSettings) -> list[ScoreKey]:
    """Return the keys of a metric in the order in which `score_layers` yields its scorings."""
    metric = METRICS[name]
    return [
        ScoreKey(name, tap, variance, *epsilon)
        for tap in (space.taps if metric.per_tap else [None])
        for variance in (settings.variances if metric.uses_variance else [None])
        for epsilon in (settings.epsilons if metric.uses_sparsity else [(None, None)])
    ]
