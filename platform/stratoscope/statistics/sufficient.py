"""Sufficient statistics of activations, and their merging."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Statistics:
    """Sufficient statistics of sets of activations; every array has one leading shape, such as (prompts, layers).

    The leading shape indexes the sets. `merge` adds two sets, `merge_all` a whole axis of them.
    """

    epsilons: tuple[float, ...]
    """Absolute thresholds of `below`, ascending."""
    prompts: NDArray[np.int64]
    """Number of prompts that have a pooled variance."""
    tokens: NDArray[np.int64]
    """Number of tokens."""
    count: NDArray[np.int64]
    """Number of finite activations."""
    mean: NDArray[np.float64]
    """Mean of the finite activations; 0 if there are none."""
    m2: NDArray[np.float64]
    """Sum of squared deviations from the mean."""
    pooled_variance: NDArray[np.float64]
    """Variance over the width of a prompt's token-mean vector, averaged over prompts; NaN if there is none."""
    histogram: NDArray[np.integer[Any]]
    """Counts of magnitudes, shape (..., NUM_BINS); in 32 bits where they fit, since this is most of the memory."""
    below: NDArray[np.int64]
    """Counts of |a| < epsilon, shape (..., len(epsilons))."""
    cosine: NDArray[np.float64]
    """Cosine between the layer's input and its output, averaged over tokens; NaN if there is none."""
    cosine_tokens: NDArray[np.int64]
    """Number of tokens that the cosine averages over."""
    nonfinite: NDArray[np.int64]
    """Number of activations that are NaN or infinite, which all other statistics leave out."""

    def __post_init__(self) -> None:
        for name in ARRAYS:
            array, trailing = getattr(self, name), 1 if name in TRAILING else 0
            if array.shape[: array.ndim - trailing] != self.shape:
                raise ValueError(f"{name} has shape {array.shape}, which does not start with {self.shape}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of sets."""
        return self.count.shape

    @property
    def variance(self) -> NDArray[np.float64]:
        """Population variance of the activations; NaN for a set without any."""
        return _divide(self.m2, self.count)

    def without_histogram(self) -> "Statistics":
        """Return the statistics without their histograms, which take most of the memory."""
        return replace(self, histogram=self.histogram[..., :0].copy())

    def __getitem__(self, index: Any) -> "Statistics":
        """Select sets; the index applies to the leading axes."""
        return Statistics(self.epsilons, *(getattr(self, name)[index] for name in ARRAYS))


ARRAYS = tuple(field.name for field in fields(Statistics) if field.name != "epsilons")
TRAILING = ("histogram", "below")


def _divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    quotient: NDArray[np.float64] = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def weighted_mean(
    values: NDArray[np.float64], weights: NDArray[np.int64], axis: int | tuple[int, ...] = 0
) -> NDArray[np.float64]:
    """Return the weighted mean over an axis; NaN if all weights are 0. Values of weight 0 may be NaN."""
    return _divide((np.nan_to_num(values) * weights).sum(axis=axis), weights.sum(axis=axis))


def merge_all(statistics: Statistics, axis: int = 0) -> Statistics:
    """Merge the sets along one leading axis into one.

    The mean is computed first and the squared deviations are shifted to it, all in float64, so that the result depends
    on the order of the sets only by rounding.

    Source: Chan, Golub and LeVeque, 'Updating formulae and a pairwise algorithm for computing sample variances', 1979.
    """
    s = statistics
    count = s.count.sum(axis=axis)
    mean = np.nan_to_num(_divide((s.count * s.mean).sum(axis=axis), count))
    m2 = (s.m2 + s.count * (s.mean - np.expand_dims(mean, axis)) ** 2).sum(axis=axis)
    return Statistics(
        epsilons=s.epsilons,
        prompts=s.prompts.sum(axis=axis),
        tokens=s.tokens.sum(axis=axis),
        count=count,
        mean=mean,
        m2=m2,
        pooled_variance=weighted_mean(s.pooled_variance, s.prompts, axis),
        histogram=s.histogram.sum(axis=axis),
        below=s.below.sum(axis=axis),
        cosine=weighted_mean(s.cosine, s.cosine_tokens, axis),
        cosine_tokens=s.cosine_tokens.sum(axis=axis),
        nonfinite=s.nonfinite.sum(axis=axis),
    )


def stack(parts: Sequence[Statistics], axis: int = 0) -> Statistics:
    """Concatenate arrays of sets along an existing leading axis.

    Raises:
        ValueError: there are no parts, or their thresholds differ.
    """
    epsilons = _common_epsilons(parts)
    return Statistics(epsilons, *(np.concatenate([getattr(p, name) for p in parts], axis=axis) for name in ARRAYS))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Merge two arrays of sets, set by set; associative and commutative up to rounding.

    Raises:
        ValueError: the thresholds of the two differ.
    """
    epsilons = _common_epsilons([a, b])
    pairs = ((getattr(a, name), getattr(b, name)) for name in ARRAYS)
    return merge_all(Statistics(epsilons, *(np.stack(pair) for pair in pairs)), axis=0)


def _common_epsilons(parts: Sequence[Statistics]) -> tuple[float, ...]:
    thresholds = {part.epsilons for part in parts}
    if len(thresholds) != 1:
        raise ValueError(f"statistics with different thresholds cannot be merged: {sorted(thresholds)}")
    return thresholds.pop()
