"""Randomisation tests of many effects at once: step-down max-T, with covariates, and simultaneous intervals.

Two designs, one computation. In the paired design each unit brings a difference, and under the null hypothesis its sign
is as likely as the other. In the grouped design each unit brings a value and belongs to one of two groups, and under
the null hypothesis groups could be dealt anew. Both are the linear model y = b x + Z c + e, where x is a column of ones
or the group. What is randomised is x, for a pair whose labels are exchanged turns the sign of its difference and of its
covariates alike. The statistic is Student's, so that it means the same where covariates go along with x and where
they do not.

Sources: Westfall and Young, 'Resampling-based multiple testing', 1993 (step-down max-T); Draper and Stoneman, 'Testing
for the inclusion of variables in linear regression by a randomisation technique', 1966 (randomising x alone).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Design = Literal["paired", "grouped"]
CHUNK = 1024
"""Draws that are computed together."""


@dataclass(frozen=True, eq=False)
class MaxT:
    """The outcome for T effects."""

    effect: Array
    """Estimates b, shape (T,)."""
    error: Array
    """Their standard errors, shape (T,)."""
    statistic: Array
    """b / error, shape (T,); 0 where nothing varies."""
    p_value: Array
    """Adjusted for all T effects by step-down max-T, shape (T,)."""
    critical: float
    """The quantile of the largest |statistic| under the null hypothesis, at the level."""
    level: float
    """Chance that an interval misses its effect, or that a p-value at most as large is found, anywhere by chance."""

    @property
    def low(self) -> Array:
        """Lower ends of the simultaneous intervals, shape (T,)."""
        return self.effect - self.critical * self.error

    @property
    def high(self) -> Array:
        """Upper ends of the simultaneous intervals, shape (T,)."""
        return self.effect + self.critical * self.error


@dataclass(frozen=True, eq=False)
class _Reduced:
    """The model without x."""

    residual: Array
    """Shape (units, T)."""
    basis: Array
    """Of the covariates, shape (units, rank)."""
    free: int
    """Degrees of freedom of the whole model."""


def max_t(
    y: Array, x: Array, covariates: Array, design: Design, *, draws: int = 9999, level: float = 0.05, seed: int = 0
) -> MaxT:
    """Test the effects of x on each column of y, all at once.

    Where the covariates explain x itself, no effect can be told from theirs: estimates are NaN and p-values 1.

    Args:
        y: differences or values, shape (units, T).
        x: ones (paired) or group membership (grouped), shape (units,).
        covariates: what is adjusted for, shape (units, K), K may be 0; a constant is added in the grouped design.
        design: how units are randomised.
        draws: randomisations besides the identity.
        level: of the simultaneous intervals.
        seed: of the draws.

    Raises:
        ValueError: there are too few units for the number of columns.
    """
    num_units = len(y)
    z = covariates if design == "paired" else np.column_stack([np.ones(num_units), covariates])
    basis = _orthonormal(z)
    free = num_units - basis.shape[1] - 1
    if free < 2:
        raise ValueError(f"{num_units} units are too few for {basis.shape[1] + 1} columns")
    direction = x - basis @ (basis.T @ x)
    length = float(np.linalg.norm(direction))
    if length < 1e-9 * np.linalg.norm(x):
        nothing = np.full(y.shape[1], np.nan)
        return MaxT(nothing, nothing, np.zeros(y.shape[1]), np.ones(y.shape[1]), float("nan"), level)
    direction = direction / length
    along = direction @ y
    residual = y - basis @ (basis.T @ y)
    statistic, spread = _studentised(along, (residual**2).sum(axis=0), free)
    null = np.concatenate([np.abs(statistic)[None], _null(_Reduced(residual, basis, free), x, design, draws, seed)])
    return MaxT(
        effect=along / length,
        error=spread / length,
        statistic=statistic,
        p_value=_step_down(np.abs(statistic), null),
        critical=float(np.quantile(null.max(axis=1), 1 - level)),
        level=level,
    )


def _orthonormal(z: Array) -> Array:
    """Return an orthonormal basis of the columns of z, shape (units, rank)."""
    if z.shape[1] == 0:
        return z
    scale = np.linalg.norm(z, axis=0)
    u, s, _ = np.linalg.svd(z / np.where(scale > 0, scale, 1), full_matrices=False)
    basis: Array = u[:, s > 1e-10 * max(s.max(), 1e-300)]
    return basis


def _studentised(along: Array, total: Array, free: int) -> tuple[Array, Array]:
    """Return the statistic and the standard error along a direction of length 1; 0 where nothing varies."""
    spread = np.sqrt(np.clip(total - along**2, 0, None) / free)
    tiny = 1e-12 * np.sqrt(np.clip(total, 1e-300, None))
    return np.where(spread > tiny, along / np.where(spread > tiny, spread, 1), 0.0), spread


def _null(reduced: _Reduced, x: Array, design: Design, draws: int, seed: int) -> Array:
    """Return |statistic| of randomised x, shape (draws, T)."""
    generator = np.random.default_rng(seed)
    total = (reduced.residual**2).sum(axis=0)
    parts = []
    for start in range(0, draws, CHUNK):
        shape = (min(CHUNK, draws - start), len(x))
        if design == "paired":
            dealt = generator.integers(0, 2, size=shape) * 2.0 - 1.0
        else:
            dealt = generator.permuted(np.broadcast_to(x, shape), axis=1)
        length = np.sqrt((dealt**2).sum(axis=1) - ((dealt @ reduced.basis) ** 2).sum(axis=1))
        along = (dealt @ reduced.residual) / length[:, None]
        statistic, _ = _studentised(along, total, reduced.free)
        parts.append(np.abs(statistic))
    return np.concatenate(parts)


def _step_down(observed: Array, null: Array) -> Array:
    """Return step-down adjusted p-values; the first row of the null is what was observed."""
    order = np.argsort(-observed, kind="stable")
    # Of the effects from the k-th largest down, the largest in each draw.
    largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]
    # Equal statistics may differ in their last digits.
    p = (largest >= observed[order] * (1 - 1e-12)).mean(axis=0)
    adjusted: Array = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted
