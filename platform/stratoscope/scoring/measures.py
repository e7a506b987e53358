"""From sufficient statistics to the measures that metrics are computed from."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import count_below, quantile_edge, snap

EpsilonKind = Literal["absolute", "quantile"]
VarianceKind = Literal["elementwise", "pooled"]


@dataclass(frozen=True)
class Threshold:
    """The sparsity threshold in use: the magnitude, and how many activations lie under it."""

    kind: EpsilonKind
    epsilon: float
    """As applied: a bin edge, unless this very value was counted exactly."""
    below: NDArray[np.int64]
    """Activations with |a| < epsilon, shape of the statistics."""


def sparsity(below: NDArray[np.generic], count: NDArray[np.generic]) -> NDArray[np.float64]:
    """Share of activations under the threshold, smoothed by half a count so that it is never zero.

    Args:
        below: activations with |a| < epsilon, any shape.
        count: all activations, same shape.

    Returns:
        Values in (0, 1), same shape.

    Source: arXiv 2411.02117 (sparsity S); the smoothing is ours.
    """
    share: NDArray[np.float64] = (np.asarray(below, np.float64) + 0.5) / (np.asarray(count, np.float64) + 1.0)
    return share


def absolute_threshold(statistics: Statistics, epsilon: float) -> Threshold:
    """Count activations under an absolute epsilon: exactly if it was configured, else at the nearest bin edge."""
    for index, counted in enumerate(statistics.epsilons):
        if np.isclose(counted, epsilon, rtol=1e-12, atol=0):
            return Threshold("absolute", counted, statistics.below[..., index])
    bin_index, edge = snap(epsilon)
    return Threshold("absolute", edge, count_below(statistics.histogram, bin_index))


def quantile_threshold(statistics: Statistics, quantile: float) -> Threshold:
    """Count activations under a quantile of |a| pooled over all prompts and layers of one tap.

    A quantile per layer would make sparsity the same everywhere, so there is one for the tap.

    Raises:
        ValueError: the quantile is outside (0, 1), or there are no activations.
    """
    pooled = statistics.histogram.reshape(-1, statistics.histogram.shape[-1]).sum(axis=0)
    bin_index, edge = quantile_edge(pooled, quantile)
    return Threshold("quantile", edge, count_below(statistics.histogram, bin_index))


def least_span_angle(angles: dict[tuple[int, int], NDArray[np.float64]], num_layers: int) -> NDArray[np.float64]:
    """Return for each layer the least angle over the spans that hold it.

    Args:
        angles: mean angle per (start, length), each of shape (...).
        num_layers: number of layers.

    Returns:
        Shape (..., num_layers); NaN for layers in no span.
    """
    shape = next(iter(angles.values())).shape if angles else ()
    least = np.full((*shape, num_layers), np.nan)
    for (start, length), angle in angles.items():
        inside = slice(start, start + length)
        least[..., inside] = np.fmin(least[..., inside], np.asarray(angle)[..., None])
    return least
