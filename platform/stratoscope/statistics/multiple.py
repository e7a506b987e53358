"""Multiple testing, and p-values from bootstrap draws."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values with Holm's correction for multiple testing.

    Args:
        p_values: p-values of the family of tests, in any order.

    Source: Holm, 'A simple sequentially rejective multiple test procedure', 1979.
    """
    order = np.argsort(p_values, kind="stable")
    remaining = len(p_values) - np.arange(len(p_values))
    rising = np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * remaining)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, rising)
    return [float(p) for p in corrected]


def bootstrap_p_value(draws: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of a difference from its bootstrap draws, at least 2 / (draws + 1).

    It is NaN if a draw is, as the percentiles are.

    Args:
        draws: bootstrap draws of the difference, without the observed value.

    Source: Davison and Hinkley, 'Bootstrap methods and their application', 1997, section 4.4, of percentile intervals.
    """
    if np.isnan(draws).any():
        return float("nan")
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(draws) + 1))
