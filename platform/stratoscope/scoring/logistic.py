"""Many small logistic regressions of the same answers, solved together by Newton's method.

scikit-learn takes a few milliseconds for each, mostly for checks, and two hundred random sets of layers in five folds
need a thousand regressions. This module solves the same problem for all sets of a size together.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 1e-6
"""Largest change of a coefficient at which the iteration has converged."""
MAX_STEPS = 50
CHUNK_SIZE = 200_000
"""Number of feature values that are processed together: they fit into the processor's cache."""


def decision_functions(train: Array, wrong: NDArray[np.bool_], test: Array, sets: Array, c: float) -> Array:
    """Fit one L2-regularised logistic regression with balanced classes per set of features, and apply each.

    Args:
        train: standardised features, shape (N, F).
        wrong: the classes, shape (N,); both must occur.
        test: features standardised in the same way, shape (M, F).
        sets: indices of each set's features, shape (S, K).
        c: inverse strength of the penalty; the intercept is not penalised.

    Returns:
        Log-odds, shape (S, M).

    Source: the objective is that of scikit-learn's LogisticRegression with class_weight 'balanced'.
    """
    sets_per_chunk = max(1, CHUNK_SIZE // (len(train) * (sets.shape[1] + 1)))
    parts = [
        _fit_chunk(train, wrong, test, sets[start : start + sets_per_chunk], c)
        for start in range(0, len(sets), sets_per_chunk)
    ]
    return np.concatenate(parts)


def _fit_chunk(train: Array, wrong: NDArray[np.bool_], test: Array, sets: Array, c: float) -> Array:
    features = _with_intercept(train, sets)
    weight = np.where(wrong, len(wrong) / (2 * wrong.sum()), len(wrong) / (2 * (~wrong).sum()))
    penalty = np.full(features.shape[2], 1 / c)
    penalty[0] = 0.0
    beta = np.zeros((len(sets), features.shape[2]))
    for _ in range(MAX_STEPS):
        odds = (features @ beta[:, :, None])[:, :, 0]
        probability = 1 / (1 + np.exp(-odds))
        gradient = ((weight * (probability - wrong))[:, None, :] @ features)[:, 0] + penalty * beta
        curvature = weight * probability * (1 - probability)
        hessian = np.swapaxes(features * curvature[:, :, None], 1, 2) @ features + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        # Where the classes are almost separable, a step can overshoot; it is shortened.
        beta -= step / np.maximum(1, np.abs(step).max(axis=1) / 5)[:, None]
        if np.abs(step).max() < TOLERANCE:
            break
    return (_with_intercept(test, sets) @ beta[:, :, None])[:, :, 0]


def _with_intercept(values: Array, sets: Array) -> Array:
    """Return each set's features with a column of ones before them, shape (S, N, K + 1)."""
    selected = np.moveaxis(values[:, sets], 1, 0)
    return np.concatenate([np.ones((*selected.shape[:2], 1)), selected], axis=2)
