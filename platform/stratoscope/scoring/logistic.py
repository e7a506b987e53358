"""Many small logistic regressions of the same answers at once, by Newton's method.

scikit-learn solves one in a few milliseconds, most of it checks; two hundred random sets of layers in five folds are a
thousand. This solves the same problem for all sets of a size together.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ENOUGH = 1e-6
"""Largest change of a coefficient at which a solution is taken as found."""
MOST_STEPS = 50
NUMBERS_TOGETHER = 200_000
"""Of features that are held at a time: they stay in the processor's cache."""


def decision_functions(train: Array, wrong: NDArray[np.bool_], test: Array, sets: Array, c: float) -> Array:
    """Fit one L2-regularised logistic regression per set of features, classes balanced, and apply each.

    Args:
        train: standardised features, shape (N, F).
        wrong: classes, both of which occur, shape (N,).
        test: features standardised in the same way, shape (M, F).
        sets: numbers of each set's features, shape (S, K).
        c: inverse strength of the penalty; the intercept is not penalised.

    Returns:
        Log-odds, shape (S, M).

    Source: the objective is that of scikit-learn's LogisticRegression with class_weight 'balanced'.
    """
    together = max(1, NUMBERS_TOGETHER // (len(train) * (sets.shape[1] + 1)))
    parts = [_some(train, wrong, test, sets[start : start + together], c) for start in range(0, len(sets), together)]
    return np.concatenate(parts)


def _some(train: Array, wrong: NDArray[np.bool_], test: Array, sets: Array, c: float) -> Array:
    features = _with_intercept(train, sets)
    weight = np.where(wrong, len(wrong) / (2 * wrong.sum()), len(wrong) / (2 * (~wrong).sum()))
    penalty = np.full(features.shape[2], 1 / c)
    penalty[0] = 0.0
    beta = np.zeros((len(sets), features.shape[2]))
    for _ in range(MOST_STEPS):
        odds = (features @ beta[:, :, None])[:, :, 0]
        chance = 1 / (1 + np.exp(-odds))
        gradient = ((weight * (chance - wrong))[:, None, :] @ features)[:, 0] + penalty * beta
        curvature = weight * chance * (1 - chance)
        hessian = np.swapaxes(features * curvature[:, :, None], 1, 2) @ features + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        # A step that leads too far, where classes are almost apart, is shortened.
        beta -= step / np.maximum(1, np.abs(step).max(axis=1) / 5)[:, None]
        if np.abs(step).max() < ENOUGH:
            break
    return (_with_intercept(test, sets) @ beta[:, :, None])[:, :, 0]


def _with_intercept(values: Array, sets: Array) -> Array:
    """Return each set's features with a column of ones before them, shape (S, N, K + 1)."""
    chosen = np.moveaxis(values[:, sets], 1, 0)
    return np.concatenate([np.ones((*chosen.shape[:2], 1)), chosen], axis=2)
