"""Results of a fitted forecaster: errors, conditions of faithfulness, and an example forecast."""

from dataclasses import dataclass
from typing import Literal

from stratoscope.forecasting.grid import GridCell
from stratoscope.forecasting.options import AttackGoal, Norm

NONE = "none"
"""Name of the absence of a perturbation."""


@dataclass(frozen=True)
class Measurement(GridCell):
    """Errors of a fitted forecaster under one perturbation, over all test windows, in standard units."""

    perturbation: str
    """Name of the perturbation."""
    level: float
    """Level of the perturbation; 0 without one."""
    mae: float
    """Mean absolute error."""
    mse: float
    """Mean squared error."""
    moved: float
    """Mean absolute change of the forecast from that of the unperturbed input."""
    seconds: float
    """Time of the measurement; without a perturbation, time of training."""


@dataclass(frozen=True)
class WorstCaseMeasurement(GridCell):
    """A condition of faithfulness of a fitted forecaster, over test windows."""

    condition: Literal["sib", "cps", "snp"]
    """sib: change of the bottleneck's output; snp: change of the forecast; cps: distance from the teacher."""
    norm: Norm | None
    """Norm of the ball that ascent searches; null for cps, which involves no perturbation."""
    goal: AttackGoal | None
    """Objective of the ascent: own, the condition itself; conditions, the sum of sib and snp, as in the paper; error,
    the error of the forecast, as in the public code. Null for cps."""
    radius: float | None
    """Radius of the ball; null for cps."""
    value: float | None
    """Largest value over windows; of sib and snp a lower bound. Null without a bottleneck or teacher."""
    mean: float | None
    """Mean over windows; null without a bottleneck or teacher."""
    windows: int
    """Number of windows."""


@dataclass(frozen=True)
class ForecastPoint(GridCell):
    """A point of one test window, in the units of the series."""

    channel: str
    """Column of the series."""
    step: int
    """Position relative to the end of the window; the first point forecast is 1."""
    value: float | None
    """Forecast; null inside the window."""
    truth: float
    """Value of the series."""
