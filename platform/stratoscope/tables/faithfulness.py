"""The tables of the faithfulness job."""

from dataclasses import dataclass, fields

from stratoscope.forecasting import (
    DeviationRatio,
    Difference,
    ForecastPoint,
    GridCell,
    Measurement,
    Spread,
    WorstCaseMeasurement,
)
from stratoscope.results import TableRow


@dataclass(frozen=True)
class CellRow(GridCell, TableRow):
    """One row per fitted forecaster, perturbation and level, over all test windows; one for a cell that failed."""

    perturbation: str | None
    """Name of the perturbation; none without one, null where the cell failed."""
    level: float | None
    """Level of the perturbation; 0 without one."""
    mae: float | None
    """Mean absolute error in standard units."""
    mse: float | None
    """Mean squared error in standard units."""
    moved: float | None
    """Mean absolute change of the forecast from that of the unperturbed input."""
    seconds: float | None
    """Time of the measurement; without a perturbation, time of training."""
    status: str
    """done or failed."""
    error: str | None
    """Error message of a cell that failed."""

    @classmethod
    def done(cls, measurement: Measurement) -> "CellRow":
        """Return the row of a measurement."""
        return cls(**vars(measurement), status="done", error=None)

    @classmethod
    def failed(cls, cell: GridCell, error: str) -> "CellRow":
        """Return the row of a cell that failed."""
        nulls = dict.fromkeys(("perturbation", "level", "mae", "mse", "moved", "seconds"))
        return cls(**vars(cell), **nulls, status="failed", error=error)  # type: ignore[arg-type]

    def measurement(self) -> Measurement:
        """Return the measurement in a row of a finished cell."""
        return Measurement(**{field.name: getattr(self, field.name) for field in fields(Measurement)})


@dataclass(frozen=True)
class WorstCaseRow(WorstCaseMeasurement, TableRow):
    """One row per fitted forecaster, condition, norm and goal: what gradient ascent finds around test windows."""


@dataclass(frozen=True)
class ForecastRow(ForecastPoint, TableRow):
    """One row per fitted forecaster, column and point of one test window."""


@dataclass(frozen=True)
class EpochRow(GridCell, TableRow):
    """One row per fitted forecaster and epoch of training."""

    epoch: int
    """Number of the epoch, from 1."""
    loss: float
    """Mean loss over the epoch."""
    validation: float
    """Error on the validation windows."""


@dataclass(frozen=True)
class SpreadRow(Spread, TableRow):
    """One row per forecaster, training, horizon and error, without a perturbation, over seeds."""


@dataclass(frozen=True)
class DifferenceRow(Difference, TableRow):
    """One row per forecaster, horizon, perturbation, level, measure and pair of trainings, paired by seed."""


@dataclass(frozen=True)
class DeviationRatioRow(DeviationRatio, TableRow):
    """One row per forecaster, horizon, error and pair of trainings, without a perturbation, over seeds."""


CELL_TABLES: dict[str, type[TableRow]] = {
    "cells": CellRow,
    "worst_case": WorstCaseRow,
    "forecasts": ForecastRow,
    "epochs": EpochRow,
}
"""The tables that are concatenated from one part per cell."""
TABLES: dict[str, type[TableRow]] = {
    **CELL_TABLES,
    "spreads": SpreadRow,
    "differences": DifferenceRow,
    "deviation_ratios": DeviationRatioRow,
}
"""All tables of a run by name."""
