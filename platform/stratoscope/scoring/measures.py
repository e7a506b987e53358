"""Measures that the metrics are computed from, derived from sufficient statistics."""

from collections.abc import Iterable, Sequence
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
    """A sparsity threshold, and where the counts under it are stored."""

    kind: EpsilonKind
    epsilon: float
    """Threshold as applied: a bin edge, unless this value was counted exactly."""
    counted: int | None = None
    """Index among the statistics' epsilons, if the threshold was counted exactly."""
    bin_index: int = 0
    """First histogram bin above the threshold, otherwise."""

    def below(self, statistics: Statistics) -> NDArray[np.int64]:
        """Return the number of activations with |a| < epsilon, shape of the statistics."""
        if self.counted is not None:
            counts: NDArray[np.int64] = statistics.below[..., self.counted]
            return counts
        return count_below(statistics.histogram, self.bin_index)


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


def absolute_threshold(epsilon: float, counted: Sequence[float]) -> Threshold:
    """Place an absolute epsilon: exactly if it was counted, else at the nearest bin edge."""
    for index, exact in enumerate(counted):
        if np.isclose(exact, epsilon, rtol=1e-12, atol=0):
            return Threshold("absolute", exact, counted=index)
    bin_index, edge = snap(epsilon)
    return Threshold("absolute", edge, bin_index=bin_index)


def quantile_threshold(quantile: float, histogram: NDArray[np.int64]) -> Threshold:
    """Place a quantile of |a|, pooled over all activations of a tap, at the nearest bin edge.

    A quantile per layer would make sparsity the same everywhere, so there is one for the tap.

    Args:
        quantile: share of activations under the threshold.
        histogram: histogram over all prompts and layers of the tap, shape (NUM_BINS,).

    Returns:
        The threshold; NaN for a tap without activations, so that no value is below it.

    Raises:
        ValueError: the quantile is outside (0, 1).
    """
    if not histogram.any():
        return Threshold("quantile", float("nan"))
    bin_index, edge = quantile_edge(histogram, quantile)
    return Threshold("quantile", edge, bin_index=bin_index)


def cosine_to_angle(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return arccos(cosine) / pi. Source: arXiv 2403.17887, angular distance."""
    angle: NDArray[np.float64] = np.arccos(np.clip(cosine, -1, 1)) / np.pi
    return angle


def layer_spans(lengths: Iterable[int], num_layers: int) -> tuple[tuple[int, int], ...]:
    """Return (start, length) of every span of these lengths."""
    return tuple((start, n) for n in sorted(set(lengths)) for start in range(num_layers - n + 1))


def least_span_angle(angles: dict[tuple[int, int], NDArray[np.float64]], num_layers: int) -> NDArray[np.float64]:
    """Return for each layer the least angle over the spans that contain it.

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
