"""Definitions of HSAV, HSS and EAVSS.

The paper on EAVSS (arXiv 2411.10069) names hallucination-specific activation variance, HSAV, and sparsity, HSS. Its
formulas could not be recovered; every definition here is ours. Each turns an answer's variance and sparsity at a layer
into two numbers. The contrast (wrong minus right) of the first number is HSAV; that of the second, with the opposite
sign, is HSS. A positive value of either means higher AVSS in wrong answers. EAVSS is their sum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Readings:
    """Variance and sparsity of the answers at one tap, shape (N answers, L layers)."""

    variance: Array
    """Variance; NaN where there is none, as in a layer without activations at the tap."""
    sparsity: Array
    """Sparsity, in (0, 1); see `scoring.sparsity`."""

    def __getitem__(self, answers: NDArray[np.bool_]) -> "Readings":
        """Select answers."""
        return Readings(self.variance[answers], self.sparsity[answers])

    @property
    def log_avss(self) -> Array:
        """Logarithm of AVSS."""
        log: Array = np.log(self.variance) - np.log(self.sparsity)
        return log

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Whether a layer can be read in all answers, shape (L,); the others have no score."""
        return np.asarray(~np.isnan(self.variance).any(axis=0))

    def masked(self) -> "Readings":
        """Return the readings with NaN throughout in layers that cannot be read in all answers."""
        return Readings(*(np.where(self.readable, values, np.nan) for values in (self.variance, self.sparsity)))


Parts = tuple[Array, Array]
"""The two numbers that stand for variance and for sparsity, by answer and layer, shape (N, L) each."""
KindMeans = Callable[[Array], Array]
"""Function from values of the answers, shape (N, L), to the mean over questions of the answers of each one's kind."""


@dataclass(frozen=True)
class Definition:
    """A definition of EAVSS."""

    name: str
    parts: Callable[[Readings, KindMeans], Parts]
    """Function from readings, and from a function to their means over right or wrong answers, to the two numbers."""
    transform: Callable[[Array], Array] = np.asarray
    """Function from a contrast to the reported value."""
    unit: Literal["none", "questions", "answers"] = "none"
    """Unit of the reported values: none, or the standard deviation over questions (within groups, where these are
    compared) or over answers."""
    contrasts: bool = True
    """Whether right answers are used; without them nothing can be tested."""


def _logarithm(readings: Readings, _means: KindMeans) -> Parts:
    variance, sparse = np.log(readings.variance), np.log(readings.sparsity)
    return variance, sparse


def _difference(readings: Readings, _means: KindMeans) -> Parts:
    return readings.variance / readings.variance.mean(axis=0), readings.sparsity / readings.sparsity.mean(axis=0)


def _ratio(readings: Readings, means: KindMeans) -> Parts:
    """Linearise the log ratio of means, so that the contrast equals it and has the same sampling variation."""

    def linear(values: Array) -> Array:
        return np.asarray(values / means(values) + np.log(means(values)))

    return linear(readings.variance), linear(readings.sparsity)


DEFINITIONS = {
    d.name: d
    for d in (
        Definition("eavss", _logarithm),
        Definition("standardized", _logarithm, unit="questions"),
        Definition("dprime", _logarithm, unit="answers"),
        Definition("difference", _difference),
        Definition("ratio", _ratio, transform=np.expm1),
        Definition("hallucinated_only", _logarithm, contrasts=False),
    )
}
"""eavss: mean log-ratio of AVSS, wrong to right. standardized: the same in standard deviations over questions. dprime:
the same in standard deviations of log AVSS over answers, which apply to a single answer too. difference: the difference
of variance and sparsity, each in units of its mean. ratio: the ratio of means over questions, less 1.
hallucinated_only: log AVSS of wrong answers, less its mean over layers."""
