"""Rank correlation between two scorings of the same layers."""

import numpy as np
from numpy.typing import NDArray


def average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 0 in ascending order, shape (n,); ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts + 1) / 2
    ranks: NDArray[np.float64] = mean_rank[inverse.ravel()]
    return ranks


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation of two vectors; NaN if either is constant or not finite."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    x, y = average_ranks(a), average_ranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else float("nan")
