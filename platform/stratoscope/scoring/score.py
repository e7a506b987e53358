"""Scores of all layers with their uncertainty, from the statistics of prompts or of shards of prompts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.measures import EpsilonKind, Threshold, VarianceKind, least_span_angle, sparsity
from stratoscope.scoring.metrics import METRICS, Measures, Metric, Scores
from stratoscope.scoring.observations import Observations, SpanAngle, Spans
from stratoscope.scoring.ranking import Ranking, rank_layers
from stratoscope.statistics import (
    Statistics,
    bootstrap_weights,
    half_weights,
    percentile_interval,
    resample,
    spearman,
)


@dataclass(frozen=True)
class ScoringSettings:
    """Settings of the scores; every combination that a metric can use becomes one scoring."""

    metrics: tuple[str, ...]
    variances: tuple[VarianceKind, ...] = ("elementwise",)
    epsilons: tuple[tuple[EpsilonKind, float], ...] = (("absolute", 0.01),)
    draws: int = 1000
    splits: int = 20
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Scoring:
    """One score per layer, with its interval and its stability."""

    metric: str
    tap: str | None
    variance: VarianceKind | None
    epsilon_kind: EpsilonKind | None
    epsilon: float | None
    """Threshold as applied."""
    scores: Scores
    """Scores, shape (layers,)."""
    ranking: Ranking
    low: Scores
    """Lower end of the bootstrap interval over units; NaN where the metric does not depend on prompts."""
    high: Scores
    """Upper end of the interval; NaN likewise."""
    split_half: float
    """Rank correlation between two halves of the units, averaged over seeded splits; NaN likewise."""
    num_never_sparse: int | None
    """Number of layers without any activation under epsilon; smoothing by half a count decides their rank."""

    @property
    def key(self) -> tuple[str | float | None, ...]:
        """What distinguishes the scoring from others of the same prompts."""
        return (self.metric, self.tap, self.variance, self.epsilon_kind, self.epsilon)


@dataclass(frozen=True)
class _TapView:
    """The statistics of a tap under one choice of variance and threshold."""

    statistics: Statistics
    variance: VarianceKind
    threshold: Threshold
    below: NDArray[np.int64]
    """Number of activations under the threshold, shape (units, layers)."""


def score_groups(
    observations: Mapping[str, Observations], weight_norm: Scores, settings: ScoringSettings
) -> Iterator[tuple[str, Scoring]]:
    """Yield every scoring of each group of prompts; quantiles that have the same threshold at a tap are scored once.

    Args:
        observations: the units of each group.
        weight_norm: Frobenius norm of each layer's weights, shape (layers,); if one is NaN, the metric magnitude is
            left out.
        settings: the scores to compute.
    """
    if np.isnan(weight_norm).any():
        settings = replace(settings, metrics=tuple(name for name in settings.metrics if name != "magnitude"))
    for group, of_group in observations.items():
        scorings = list(score_layers(of_group, weight_norm, settings))
        for scoring in {scoring.key: scoring for scoring in scorings}.values():
            yield group, scoring


def score_layers(observations: Observations, weight_norm: Scores, settings: ScoringSettings) -> Iterator[Scoring]:
    """Yield every scoring of one group of prompts; a tap without activations in any layer has none.

    Args:
        observations: the units to score, counted under the thresholds of `settings.epsilons`, in their order.
        weight_norm: Frobenius norm of each layer's weights, shape (layers,).
        settings: the scores to compute.
    """
    for name in settings.metrics:
        metric = METRICS[name]
        taps: Sequence[str] = list(observations.taps)[:1]
        if metric.per_tap:
            taps = [tap for tap, units in observations.taps.items() if units.statistics.count.any()]
        for tap in taps:
            units = observations.taps[tap]
            for variance in settings.variances if metric.uses_variance else settings.variances[:1]:
                for index, threshold in enumerate(units.thresholds if metric.uses_sparsity else units.thresholds[:1]):
                    view = _TapView(units.statistics, variance, threshold, units.below[..., index])
                    yield _score(
                        metric, tap, view, angles=observations.angles, weight_norm=weight_norm, settings=settings
                    )


def _score(
    metric: Metric, tap: str, view: _TapView, *, angles: Spans, weight_norm: Scores, settings: ScoringSettings
) -> Scoring:
    def compute(weights: NDArray[np.float64]) -> Scores:
        return metric.compute(_measures(view, angles, weight_norm, weights, settings.seed))

    num_units, num_layers = view.statistics.shape
    scores = compute(np.ones((1, num_units))).reshape(-1)[-num_layers:]
    low, high, split_half = np.full(num_layers, np.nan), np.full(num_layers, np.nan), float("nan")
    if metric.from_prompts and num_units > 1:
        draws = compute(bootstrap_weights(num_units, settings.draws, settings.seed))
        low, high = percentile_interval(draws, settings.confidence)
        halves = half_weights(num_units, settings.splits, settings.seed)
        pairs = compute(halves.reshape(-1, num_units)).reshape(settings.splits, 2, num_layers)
        known = np.isfinite(scores)
        split_half = float(np.mean([spearman(a[known], b[known]) for a, b in pairs]))
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
        num_never_sparse=_num_never_sparse(view) if metric.uses_sparsity else None,
    )


def _num_never_sparse(view: _TapView) -> int:
    below, count = view.below.sum(axis=0), view.statistics.count.sum(axis=0)
    return int(((below == 0) & (count > 0)).sum())


def _measures(view: _TapView, angles: Spans, weight_norm: Scores, weights: NDArray[np.float64], seed: int) -> Measures:
    merged = resample(view.statistics, view.below, weights)
    return Measures(
        variance=merged.variance if view.variance == "elementwise" else merged.pooled_variance,
        # A layer without activations at the tap has no score.
        sparsity=np.where(merged.count > 0, sparsity(merged.below, merged.count), np.nan),
        cosine=merged.cosine,
        angle=least_span_angle({span: _mean(angle, weights) for span, angle in angles.items()}, len(weight_norm)),
        weight_norm=weight_norm,
        seed=seed,
    )


def _mean(angle: SpanAngle, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights @ (np.nan_to_num(angle.mean) * angle.prompts)
        mean: NDArray[np.float64] = total / (weights @ angle.prompts)
    return mean
