"""Ranks, shares and the layers to drop, from scores."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranking:
    """Ranks of all layers; each array has shape (layers,)."""

    rank: NDArray[np.int64]
    """Rank, 0 = least important; the lower layer wins a tie, and layers without a score rank last."""
    normalized: NDArray[np.float64]
    """Share of the sum of all scores."""
    cumulative: NDArray[np.float64]
    """Sum of the shares of this layer and of all that rank below it."""


def rank_layers(scores: NDArray[np.float64], *, high_is_important: bool = True) -> Ranking:
    """Rank layers by importance.

    Args:
        scores: one per layer, shape (layers,), not negative; NaN where a layer has none.
        high_is_important: whether the lowest or the highest score ranks 0.

    Source: arXiv 2411.02117, normalised and cumulative AVSS. The authors' code accumulates before it sorts; here the
        sum follows the order of importance.
    """
    order = np.argsort(scores if high_is_important else -scores, kind="stable")
    rank = np.empty(len(scores), np.int64)
    rank[order] = np.arange(len(scores))
    total = np.nansum(scores)
    normalized = scores / total if 0 < total < np.inf else np.full(len(scores), np.nan)
    cumulative = np.empty(len(scores))
    cumulative[order] = np.cumsum(normalized[order])
    return Ranking(rank, normalized, cumulative)


def num_dropped(ratio: float, num_layers: int) -> int:
    """Return the number of layers that a prune ratio drops: floor(ratio * layers + 1/2)."""
    return math.floor(ratio * num_layers + 0.5)


def lowest(rank: NDArray[np.int64], count: int) -> list[int]:
    """Return the `count` least important layers, in order of layers."""
    return [int(layer) for layer in np.flatnonzero(rank < count)]
