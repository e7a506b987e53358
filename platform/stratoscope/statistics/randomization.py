"""Randomisation tests of many effects at once: step-down max-T, with covariates, and simultaneous intervals.

Two designs share one computation. In the paired design each unit contributes a difference, whose sign is random under
the null hypothesis. In the grouped design each unit contributes a value and belongs to one of two groups, which are
exchangeable under the null hypothesis. Both are the linear model y = b x + Z c + e, where x is a column of ones or the
group. The tests randomise x, since exchanging the labels of a pair flips the signs of its difference and covariates
alike. The statistic is studentised, so that it is comparable whether or not covariates correlate with x.

Sources: Westfall and Young, 'Resampling-based multiple testing', 1993 (step-down max-T); Draper and Stoneman, 'Testing
for the inclusion of variables in linear regression by a randomisation technique', 1966 (randomising x alone).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stratoscope.statistics.least_p import least_group_p, least_rank_p, least_sign_p

Array = NDArray[np.float64]
Design = Literal["paired", "grouped"]
CHUNK = 1024
"""Number of draws that are computed together."""
ROUNDING = 1e-20
"""Share of a column's sum of squares up to which its residual is rounding, so that the column counts as explained."""
LEAST_SHARE = 1e-12
"""Share of the squares of a randomised x up to which what the covariates leave of it is rounding."""
LEAST_SPREAD = 1e-7
"""Least spread along x, as a share of the spread without x: rounding of the subtraction leaves about 1e-8."""


@dataclass(frozen=True, eq=False)
class MaxT:
    """Result of a max-T test of T effects."""

    effect: Array
    """Estimates b, shape (T,)."""
    error: Array
    """Standard errors, shape (T,)."""
    spread: Array
    """Standard deviations of e over units, shape (T,)."""
    statistic: Array
    """b / error, shape (T,); 0 where the constant and the covariates explain y, large but finite where x does."""
    p_value: Array
    """P-values adjusted for all T effects by step-down max-T, shape (T,)."""
    critical: float
    """Quantile 1 - level of the largest |statistic| under the null hypothesis; infinite where the covariates explain
    too many draws."""
    level: float
    """Family-wise error rate of the intervals."""
    least_p: float
    """Smallest p-value that this number of units and draws allows."""

    @property
    def low(self) -> Array:
        """Lower ends of the simultaneous intervals, shape (T,)."""
        return self.effect - self.critical * self.error

    @property
    def high(self) -> Array:
        """Upper ends of the simultaneous intervals, shape (T,)."""
        return self.effect + self.critical * self.error


@dataclass(frozen=True, eq=False)
class _ReducedModel:
    """The linear model without x."""

    residual: Array
    """Residuals, shape (units, T)."""
    basis: Array
    """Orthonormal basis of the covariates, shape (units, rank)."""
    free: int
    """Degrees of freedom of the full model."""


def max_t(
    y: Array, x: Array, covariates: Array, design: Design, *, draws: int = 9999, level: float = 0.05, seed: int = 0
) -> MaxT:
    """Test the effects of x on each column of y, all at once.

    If the covariates explain x completely, effects are not identified: estimates are NaN and p-values 1.

    Args:
        y: differences or values, shape (units, T).
        x: ones (paired) or group membership (grouped), shape (units,).
        covariates: covariates, shape (units, K), where K may be 0; the grouped design adds a constant.
        design: randomisation of the units.
        draws: number of randomisations besides the identity.
        level: family-wise error rate of the simultaneous intervals.
        seed: seed of the draws.

    Raises:
        ValueError: there are too few units for the number of columns.
    """
    num_units = len(y)
    z = covariates if design == "paired" else np.column_stack([np.ones(num_units), covariates])
    basis = _orthonormal(z)
    free = num_units - basis.shape[1] - 1
    if free < 2:
        raise ValueError(f"{num_units} units are too few for {basis.shape[1] + 1} columns")
    least_p = _least_p(x, design, draws)
    direction = x - basis @ (basis.T @ x)
    length = float(np.linalg.norm(direction))
    if length < 1e-9 * np.linalg.norm(x):
        missing = np.full(y.shape[1], np.nan)
        return MaxT(missing, missing, missing, np.zeros(y.shape[1]), np.ones(y.shape[1]), float("nan"), level, least_p)
    direction = direction / length
    residual = _residual(y, basis)
    along = direction @ residual
    statistic, spread = _studentised(along, (residual**2).sum(axis=0), free)
    null = np.concatenate(
        [np.abs(statistic)[None], _null(_ReducedModel(residual, basis, free), x, design, draws, seed)]
    )
    return MaxT(
        effect=along / length,
        error=spread / length,
        spread=spread,
        statistic=statistic,
        p_value=_step_down(np.abs(statistic), null),
        critical=_critical(null.max(axis=1), level),
        level=level,
        least_p=least_p,
    )


def _least_p(x: Array, design: Design, draws: int) -> float:
    """Return the smallest p-value of a design with the given number of units and draws."""
    members = int((x == x[0]).sum())
    exact = least_sign_p(len(x)) if design == "paired" else least_group_p(members, len(x) - members)
    return max(exact, least_rank_p(draws))


def _orthonormal(z: Array) -> Array:
    """Return an orthonormal basis of the columns of z, shape (units, rank)."""
    if z.shape[1] == 0:
        return z
    scale = np.linalg.norm(z, axis=0)
    u, s, _ = np.linalg.svd(z / np.where(scale > 0, scale, 1), full_matrices=False)
    basis: Array = u[:, s > 1e-10 * max(s.max(), 1e-300)]
    return basis


def _residual(y: Array, basis: Array) -> Array:
    """Return what the covariates leave of y, shape (units, T); exactly 0 where only rounding errors are left."""
    residual = y - basis @ (basis.T @ y)
    explained = (residual**2).sum(axis=0) <= ROUNDING * (y**2).sum(axis=0)
    return np.where(explained, 0.0, residual)


def _studentised(along: Array, total: Array, free: int) -> tuple[Array, Array]:
    """Return the statistic and the standard error along a direction of length 1; the former is 0 where nothing varies.

    An effect without any variation around it has a large, finite statistic, equal in all draws that repeat it.
    """
    spread = np.sqrt(np.clip(total - along**2, 0, None) / free)
    least = LEAST_SPREAD * np.sqrt(total / free)
    return along / np.where(total > 0, np.maximum(spread, least), 1.0), spread


def _null(reduced: _ReducedModel, x: Array, design: Design, draws: int, seed: int) -> Array:
    """Return |statistic| of randomised x, shape (draws, T).

    A draw that the covariates explain has no statistic. It is infinite, so that the draw counts as exceeding.
    """
    generator = np.random.default_rng(seed)
    total = (reduced.residual**2).sum(axis=0)
    parts = []
    for start in range(0, draws, CHUNK):
        shape = (min(CHUNK, draws - start), len(x))
        if design == "paired":
            randomised = generator.integers(0, 2, size=shape) * 2.0 - 1.0
        else:
            randomised = generator.permuted(np.broadcast_to(x, shape), axis=1)
        square = (randomised**2).sum(axis=1)
        left = square - ((randomised @ reduced.basis) ** 2).sum(axis=1)
        explained = left <= LEAST_SHARE * square
        length = np.sqrt(np.where(explained, 1.0, left))
        along = (randomised @ reduced.residual) / length[:, None]
        statistic, _ = _studentised(along, total, reduced.free)
        parts.append(np.where(explained[:, None], np.inf, np.abs(statistic)))
    return np.concatenate(parts)


def _critical(largest: Array, level: float) -> float:
    """Return the quantile 1 - level of the largest |statistic| of each draw, some of which may be infinite."""
    with np.errstate(invalid="ignore"):  # NumPy interpolates between infinite neighbours to NaN
        quantile = float(np.quantile(largest, 1 - level))
    return quantile if np.isfinite(quantile) else float("inf")


def _step_down(observed: Array, null: Array) -> Array:
    """Return step-down adjusted p-values; the first row of the null is the observed statistic."""
    order = np.argsort(-observed, kind="stable")
    # Largest statistic of each draw among the effects from the k-th largest down.
    largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]
    # Equal statistics may differ in their last digits.
    p = (largest >= observed[order] * (1 - 1e-12)).mean(axis=0)
    adjusted: Array = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted
