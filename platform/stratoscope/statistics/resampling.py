"""Resampling over prompts: bootstrap intervals and split halves as matrices of weights.

A resample is a row of integer weights, one per prompt. The statistics of all resamples are matrix products, so that a
thousand bootstrap draws of every layer cost less than one batch of the model.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stratoscope.statistics.sufficient import Statistics


@dataclass(frozen=True)
class Resampled:
    """Merged statistics of resamples, each array of shape (resamples, layers)."""

    variance: NDArray[np.float64]
    pooled_variance: NDArray[np.float64]
    count: NDArray[np.float64]
    below: NDArray[np.float64]
    cosine: NDArray[np.float64]


def bootstrap_weights(num_items: int, draws: int, seed: int) -> NDArray[np.float64]:
    """Return the number of times that each bootstrap draw contains each item, shape (draws, num_items)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_items, np.full(num_items, 1 / num_items), size=draws).astype(np.float64)


def half_weights(num_items: int, splits: int, seed: int) -> NDArray[np.float64]:
    """Return random halves and their complements as zeros and ones, shape (splits, 2, num_items)."""
    generator = np.random.default_rng(seed)
    halves = np.zeros((splits, 2, num_items))
    for split in range(splits):
        order = generator.permutation(num_items)
        halves[split, 0, order[: num_items // 2]] = 1
        halves[split, 1, order[num_items // 2 :]] = 1
    return halves


def resample(statistics: Statistics, below: NDArray[np.int64], weights: NDArray[np.float64]) -> Resampled:
    """Merge the sets of many resamples.

    Args:
        statistics: one set per prompt and layer, shape (prompts, layers).
        below: number of activations under the threshold, shape (prompts, layers).
        weights: shape (resamples, prompts).
    """
    s = statistics
    count = weights @ s.count
    # Deviations from the mean of all prompts avoid cancellation, as it is close to the mean of every resample.
    totals = s.count.sum(axis=0)
    centre = (s.count * s.mean).sum(axis=0) / np.maximum(totals, 1)
    shifted = s.mean - centre
    first = weights @ (s.count * shifted)
    second = weights @ (s.m2 + s.count * shifted**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (second - first**2 / count) / count
    return Resampled(
        variance=variance,
        pooled_variance=_mean(s.pooled_variance, s.prompts, weights),
        count=count,
        below=weights @ below,
        cosine=_mean(s.cosine, s.cosine_tokens, weights),
    )


def percentile_interval(draws: NDArray[np.float64], confidence: float) -> tuple[NDArray[np.float64], ...]:
    """Return the lower and upper percentile over axis 0; NaN where a draw is NaN."""
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def _mean(values: NDArray[np.float64], sizes: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: NDArray[np.float64] = (weights @ (np.nan_to_num(values) * sizes)) / (weights @ sizes)
    return mean
