"""The grid of forecasters to fit, and the settings of a cell."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stratoscope.digest import digest
from stratoscope.forecasting.faithful import FaithfulLoss
from stratoscope.forecasting.fitting import FitSettings
from stratoscope.forecasting.forecasters import FORECASTERS
from stratoscope.forecasting.options import DESIGNS, TRAININGS, Norm, Origin, Training
from stratoscope.forecasting.timesieve import TimeSieveSettings

NOT_PLAIN = re.compile(r"[^\w.-]")
"""Characters that do not appear in names of files."""
MAX_KEY_BYTES = 150
"""Bytes of a cell's key before a digest. File systems allow 255 for the name of a file, suffixes included."""


@dataclass(frozen=True)
class GridCell:
    """A forecaster to fit; the fields identify it in every table."""

    dataset: str
    """Name of the series."""
    forecaster: str
    """Name of the forecaster."""
    training: Training
    """How the forecaster was trained."""
    seed: int
    """Seed of the initial weights and of training."""
    horizon: int
    """Number of points forecast."""

    @property
    def key(self) -> str:
        """Name of the cell's files: plain, unique in a grid, and short enough for a file system."""
        name = f"{self.dataset}-{self.forecaster}-{self.horizon}-{self.seed}-{self.training}"
        plain = NOT_PLAIN.sub("_", name)
        # Series 'a' and forecaster 'b-c' would have the name of series 'a-b' and forecaster 'c'.
        ambiguous = {"forecaster": self.forecaster} if "-" in self.forecaster else {}
        if plain == name and not ambiguous and len(name.encode()) <= MAX_KEY_BYTES:
            return name
        beginning = plain.encode()[:MAX_KEY_BYTES].decode(errors="ignore")
        return f"{beginning}-{digest({'name': name, **ambiguous})[:20]}"

    def start(self, first_seed: int) -> "GridCell | None":
        """Return the cell with plain training whose weights this one starts from; None for plain training.

        Args:
            first_seed: first seed of the grid.
        """
        return self._plain(DESIGNS[self.training].start, first_seed)

    def teacher(self, first_seed: int) -> "GridCell | None":
        """Return the cell with plain training whose forecasts this one keeps to; None without a teacher.

        Args:
            first_seed: first seed of the grid.
        """
        return self._plain(DESIGNS[self.training].teacher, first_seed)

    def _plain(self, origin: Origin | None, first_seed: int) -> "GridCell | None":
        if origin is None:
            return None
        return replace(self, training="plain", seed=self.seed if origin == "own" else first_seed)


@dataclass(frozen=True)
class SearchSettings:
    """Settings of the search for the worst perturbation of a fitted forecaster."""

    windows: int = 128
    """Number of test windows searched, evenly spaced."""
    norms: tuple[Norm, ...] = ("linf", "l2")
    """Norms of the balls."""
    radius: float = 0.15
    """Radius of the linf ball in standard units; `radius_scale` converts it for other norms."""
    steps: int = 20
    """Steps of an ascent."""


@dataclass(frozen=True)
class CellSettings:
    """Settings for fitting and measuring one cell."""

    lookback: int
    """Number of points that a forecast is made from."""
    fit: FitSettings
    """Settings of training."""
    loss: FaithfulLoss | None
    """Loss of trainings with a teacher; None for others."""
    timesieve: TimeSieveSettings
    """Settings of a TimeSieve."""
    perturbations: tuple[str, ...]
    """Names of the perturbations."""
    levels: tuple[float, ...]
    """Levels of each perturbation; 0 is skipped, since the unperturbed forecast is always measured."""
    search: SearchSettings
    """Settings of the search for the worst perturbation."""
    seed: int
    """Seed of the perturbations' noise."""


def grid_cells(
    datasets: Sequence[str],
    forecasters: Sequence[str],
    trainings: Sequence[Training],
    seeds: Sequence[int],
    horizons: Sequence[int],
) -> list[GridCell]:
    """Return all cells; plain training comes first, since the other trainings start from its weights.

    A forecaster without weights gets plain training alone.
    """
    return [
        GridCell(dataset, forecaster, training, seed, horizon)
        for training in sorted(trainings, key=TRAININGS.index)
        for horizon in horizons
        for dataset in datasets
        for seed in seeds
        for forecaster in forecasters
        if training == "plain" or FORECASTERS[forecaster].trainable
    ]
