"""From scores to ranks, shares and the layers to drop."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranking:
    """Scores of all layers put in order, each array of shape (layers,)."""

    rank: NDArray[np.int64]
    """0 = least important; ties go to the lower layer, layers without a score come last."""
    normalized: NDArray[np.float64]
    """Share of the sum of all scores."""
    cumulative: NDArray[np.float64]
    """Sum of the shares of this layer and of all that rank under it."""


def rank_layers(scores: NDArray[np.float64], *, high_is_important: bool = True) -> Ranking:
    """Put layers in order of importance.

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
    """Return how many layers a prune ratio takes: floor(ratio * layers + 1/2)."""
    return math.floor(ratio * num_layers + 0.5)


def lowest(rank: NDArray[np.int64], count: int) -> list[int]:
    """Return the `count` least important layers, in order of layers."""
    return [int(layer) for layer in np.flatnonzero(rank < count)]
