"""Scores of all layers with their uncertainty, from the statistics of prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.measures import (
    EpsilonKind,
    Threshold,
    VarianceKind,
    absolute_threshold,
    least_span_angle,
    quantile_threshold,
    sparsity,
)
from stratoscope.scoring.metrics import METRICS, Measures, Metric, Scores
from stratoscope.scoring.ranking import Ranking, rank_layers
from stratoscope.statistics import (
    Statistics,
    bootstrap_weights,
    half_weights,
    percentile_interval,
    resample,
    spearman,
)

Spans = dict[tuple[int, int], NDArray[np.float64]]


@dataclass(frozen=True)
class Choices:
    """Which scores to compute; every combination that a metric can use becomes one scoring."""

    metrics: tuple[str, ...]
    variances: tuple[VarianceKind, ...] = ("elementwise",)
    epsilons: tuple[tuple[EpsilonKind, float], ...] = (("absolute", 0.01),)
    draws: int = 1000
    splits: int = 20
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Observations:
    """What was seen of a group of prompts."""

    taps: dict[str, Statistics]
    """Statistics by tap, each of shape (prompts, layers)."""
    angles: Spans = field(default_factory=dict)
    """Angular distance by (start, length) of a span, each of shape (prompts,)."""


@dataclass(frozen=True)
class Scoring:
    """One score for each layer, with its interval and its stability."""

    metric: str
    tap: str | None
    variance: VarianceKind | None
    epsilon_kind: EpsilonKind | None
    epsilon: float | None
    """As applied."""
    scores: Scores
    """Shape (layers,)."""
    ranking: Ranking
    low: Scores
    """Lower end of the bootstrap interval over prompts; NaN where the metric does not depend on prompts."""
    high: Scores
    split_half: float
    """Rank correlation between two halves of the prompts, averaged over seeded splits; NaN likewise."""
    num_never_sparse: int | None
    """Layers without one activation under epsilon: there the half count decides the rank."""


@dataclass(frozen=True)
class _View:
    """A tap seen through one choice of variance and threshold."""

    statistics: Statistics
    variance: VarianceKind
    threshold: Threshold


def score_layers(
    observations: Observations, weight_norm: Scores, choices: Choices, thresholds: Observations | None = None
) -> Iterator[Scoring]:
    """Compute every scoring that is asked for.

    Args:
        observations: the prompts to score.
        weight_norm: Frobenius norm of each layer's weights, shape (layers,).
        choices: what to compute.
        thresholds: the prompts whose pooled quantiles set the thresholds, where these are more than the ones scored.
    """
    for name in choices.metrics:
        metric = METRICS[name]
        taps: Sequence[str] = list(observations.taps) if metric.per_tap else list(observations.taps)[:1]
        for tap in taps:
            statistics = observations.taps[tap]
            basis = (thresholds or observations).taps[tap]
            for variance in choices.variances if metric.uses_variance else choices.variances[:1]:
                for kind, epsilon in choices.epsilons if metric.uses_sparsity else choices.epsilons[:1]:
                    view = _View(statistics, variance, _threshold(statistics, basis, kind, epsilon))
                    yield _score(
                        metric, tap, view, angles=observations.angles, weight_norm=weight_norm, choices=choices
                    )


def _threshold(statistics: Statistics, basis: Statistics, kind: EpsilonKind, epsilon: float) -> Threshold:
    if kind == "absolute":
        return absolute_threshold(statistics, epsilon)
    edge = quantile_threshold(basis, epsilon).epsilon
    # The edge is a bin's own, so it is applied as it is.
    return Threshold(kind, edge, absolute_threshold(statistics, edge).below)


def _score(metric: Metric, tap: str, view: _View, *, angles: Spans, weight_norm: Scores, choices: Choices) -> Scoring:
    def compute(weights: NDArray[np.float64]) -> Scores:
        return metric.compute(_measures(view, angles, weight_norm, weights, choices.seed))

    num_prompts, num_layers = view.statistics.shape
    scores = compute(np.ones((1, num_prompts))).reshape(-1)[-num_layers:]
    low, high, split_half = np.full(num_layers, np.nan), np.full(num_layers, np.nan), float("nan")
    if metric.from_prompts and num_prompts > 1:
        draws = compute(bootstrap_weights(num_prompts, choices.draws, choices.seed))
        low, high = percentile_interval(draws, choices.confidence)
        halves = half_weights(num_prompts, choices.splits, choices.seed)
        pairs = compute(halves.reshape(-1, num_prompts)).reshape(choices.splits, 2, num_layers)
        split_half = float(np.mean([spearman(a, b) for a, b in pairs]))
    return Scoring(
        metric=metric.name,
        tap=tap if metric.per_tap else None,
        variance=view.variance if metric.uses_variance else None,
        epsilon_kind=view.threshold.kind if metric.uses_sparsity else None,
        epsilon=view.threshold.epsilon if metric.uses_sparsity else None,
        scores=scores,
        ranking=rank_layers(scores, high_is_important=metric.high_is_important),
        low=low,
        high=high,
        split_half=split_half,
        num_never_sparse=int((view.threshold.below.sum(axis=0) == 0).sum()) if metric.uses_sparsity else None,
    )


def _measures(view: _View, angles: Spans, weight_norm: Scores, weights: NDArray[np.float64], seed: int) -> Measures:
    merged = resample(view.statistics, view.threshold.below, weights)
    return Measures(
        variance=merged.variance if view.variance == "elementwise" else merged.pooled_variance,
        sparsity=sparsity(merged.below, merged.count),
        cosine=merged.cosine,
        angle=least_span_angle({span: _mean(angle, weights) for span, angle in angles.items()}, len(weight_norm)),
        weight_norm=weight_norm,
        seed=seed,
    )


def _mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: NDArray[np.float64] = (weights @ np.where(known, values, 0.0)) / (weights @ known)
    return mean
