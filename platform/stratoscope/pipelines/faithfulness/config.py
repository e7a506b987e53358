"""Configuration of the faithfulness job."""

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from stratoscope.data import SeriesSource, SplitRule
from stratoscope.errors import InputError
from stratoscope.forecasting import ABLATIONS, FAITHFUL_TRAININGS, Attack, Error, Norm, Preset, Training
from stratoscope.pipelines.runtime.config import NOT_IN_IDENTITY, ConfigSection, JobConfig
from stratoscope.pipelines.runtime.validators import DISTINCT, NOT_NEGATIVE, POSITIVE, named

if TYPE_CHECKING:
    from stratoscope.forecasting import (
        CellSettings,
        FaithfulLoss,
        FitSettings,
        GridCell,
        SearchSettings,
        TimeSieveSettings,
    )


def _forecasters() -> Collection[str]:
    from stratoscope.forecasting import FORECASTERS

    return FORECASTERS


def _perturbations() -> Collection[str]:
    from stratoscope.forecasting import PERTURBATIONS

    return PERTURBATIONS


class SeriesSection(ConfigSection):
    """Series to forecast."""

    source: Annotated[list[str], DISTINCT] = Field(["epf_fr"], min_length=1)
    """Known series, CSV or Parquet files, or hub names, separated by commas; each is a data set."""
    columns: Annotated[list[str], DISTINCT] = []
    """Columns of the series; an empty list takes all numeric columns."""
    split: SplitRule = "auto"
    """Training, validation and test parts. ett_hourly and ett_quarterly: 12, 4 and 4 months; ratio: 70, 10 and 20 %;
    auto: by months for ETT files, recognised by name, and by ratio otherwise."""
    limit: int | None = Field(None, ge=10)
    """Number of rows read from the start; null reads all."""

    def to_sources(self) -> list[SeriesSource]:
        """Return the source of each series."""
        return [SeriesSource(source, tuple(self.columns), self.split, self.limit) for source in self.source]


class GridSection(ConfigSection):
    """Forecasters, trainings, seeds, horizons and perturbations."""

    forecasters: Annotated[list[str], DISTINCT, named(_forecasters, "forecaster")] = Field(
        ["timesieve", "dlinear"], min_length=1
    )
    """Forecasters: timesieve, dlinear, linear, last_value, patchtst, patchtsmixer."""
    trainings: Annotated[list[Training], DISTINCT] = Field(["plain", "faithful"], min_length=1)
    """Trainings. plain; faithful: faithful fine-tuning of the plain forecaster; longer: as many further epochs of plain
    training, the reference for faithful training, since more epochs change a forecaster too; without_sib, without_cps
    and without_snp: faithful training without one of its conditions."""
    seeds: Annotated[list[int], DISTINCT] = Field([2021, 2022, 2023], min_length=1)
    """Seeds, with each of which every forecaster is trained; the first is the base of the preference."""
    horizons: Annotated[list[int], DISTINCT, POSITIVE] = Field([24], min_length=1)
    """Numbers of points forecast."""
    perturbations: Annotated[list[str], DISTINCT, named(_perturbations, "perturbation")] = [
        "gaussian",
        "residual",
        "missing",
        "parameter",
        "adversarial",
    ]
    """Perturbations: gaussian, residual, missing and adversarial change the input, parameter the bottleneck."""
    levels: Annotated[list[float], DISTINCT, NOT_NEGATIVE] = Field([0.0, 0.1, 0.2], min_length=1)
    """Levels of the perturbations; 0 is always computed. A level is a standard deviation in standard units (gaussian),
    relative to the window's residual (residual) or to each parameter (parameter), a share of values (missing), or the
    largest change of a value (adversarial)."""
    cpus: float = Field(1, gt=0, json_schema_extra=NOT_IN_IDENTITY)
    """CPUs of a task. A task computes with one thread, so results do not depend on the number of cores."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of a task; null takes a quarter of a GPU where the cluster has any."""


class FitSection(ConfigSection):
    """Training of forecasters."""

    epochs: int = Field(10, ge=1)
    """Epochs of plain training."""
    faithful_epochs: int | None = Field(None, ge=1)
    """Epochs of the trainings that start from the plain forecaster; null takes as many. The paper has 10, the public
    code 30."""
    batch: int = Field(32, ge=1)
    """Windows of a step."""
    learning_rate: float | None = Field(None, gt=0)
    """Learning rate of Adam in the first two epochs; null takes the forecaster's default: timesieve 0.0001, patchtst
    and patchtsmixer 0.001, linear and dlinear 0.005."""
    decay: float = Field(0.5, gt=0, le=1)
    """Factor of the learning rate after every later epoch."""
    patience: int = Field(3, ge=0)
    """Epochs without a better validation error until plain training stops; 0 trains to the end."""
    error: Error = "mae"
    """Error that training minimises; mae as in the code of FTS, mse as in that of TimeSieve."""
    lookback: int | None = Field(None, ge=2)
    """Number of points that a forecast is made from; null takes twice the horizon."""

    def to_settings(self, forecaster: str, training: Training) -> "FitSettings":
        """Return the settings of a training; those that start from the plain forecaster do not stop early."""
        from stratoscope.forecasting import FORECASTERS, FitSettings

        plain = training == "plain"
        return FitSettings(
            epochs=self.epochs if plain else self.faithful_epochs or self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate or FORECASTERS[forecaster].learning_rate,
            decay=self.decay,
            patience=self.patience if plain else 0,
            error=self.error,
        )


class TimeSieveSection(ConfigSection):
    """Architecture of TimeSieve."""

    preset: Preset = "reference"
    """reference follows the public code, paper the paper."""
    wavelet: str = "db1"
    """Name of the wavelet in PyWavelets; db1 is the Haar wavelet."""
    samples_at_test: bool = False
    """Draw the latent at test time too, as the public code does."""

    def to_settings(self) -> "TimeSieveSettings":
        """Return the model's settings."""
        from stratoscope.forecasting import TimeSieveSettings

        return replace(
            TimeSieveSettings.from_preset(self.preset), wavelet=self.wavelet, samples_at_test=self.samples_at_test
        )


class FaithfulSection(ConfigSection):
    """Loss of faithful training."""

    sib: float = Field(0.05, ge=0)
    """Weight of similarity in the bottleneck space."""
    cps: float = Field(1.0, ge=0)
    """Weight of consistency in the prediction space, with the plain forecaster."""
    snp: float = Field(0.05, ge=0)
    """Weight of stability under noise."""
    uphill: Attack = "error"
    """Objective that perturbations maximise: error, as in the public code, or conditions, as in the paper."""
    radius: float = Field(0.15, gt=0)
    """Radius of the linf ball of perturbations in standard units; the l2 ball is as large as a window all of whose
    elements move by a tenth of it."""
    step: float = Field(0.01, gt=0)
    """Step size of an ascent, scaled like the radius."""
    steps: int = Field(20, ge=1)
    """Steps of an ascent."""
    norm: Norm = "linf"
    """Norm of the ball: linf or l2."""

    def to_loss(self, training: Training, elements: int, error: Error) -> "FaithfulLoss":
        """Return the loss of a faithful training on windows of so many elements."""
        from stratoscope.forecasting import AscentSettings, FaithfulLoss, FaithfulWeights, radius_scale

        scale = radius_scale(self.norm, elements)
        ascent = AscentSettings(scale * self.radius, scale * self.step, self.steps, self.norm)
        weights = FaithfulWeights(self.sib, self.cps, self.snp)
        if training in ABLATIONS:
            weights = replace(weights, **{ABLATIONS[training]: 0.0})
        return FaithfulLoss(weights, ascent, self.uphill, error)


class WorstSection(ConfigSection):
    """Search for the worst perturbation of fitted forecasters."""

    windows: int = Field(128, ge=1)
    """Number of test windows searched, evenly spaced."""
    norms: Annotated[list[Norm], DISTINCT] = Field(["linf", "l2"], min_length=1)
    """Norms of the balls."""
    radius: float = Field(0.15, gt=0)
    """Radius of the linf ball in standard units; the l2 ball is as large as a window all of whose elements move by a
    tenth of it."""
    steps: int = Field(20, ge=1)
    """Steps of an ascent."""

    def to_settings(self) -> "SearchSettings":
        """Return the settings of the search."""
        from stratoscope.forecasting import SearchSettings

        return SearchSettings(self.windows, tuple(self.norms), self.radius, self.steps)


class VerdictSection(ConfigSection):
    """Thresholds of the verdict."""

    spread: float = Field(0.05, gt=0)
    """Largest standard deviation of the squared error over seeds, relative to its mean, that counts as surviving."""
    degradation: float = Field(0.1, gt=0)
    """Largest relative growth of the absolute error under a perturbation that counts as surviving."""


class FaithfulnessConfig(JobConfig):
    """Test whether forecasts survive another seed and perturbed inputs, and whether faithful training helps."""

    series: SeriesSection = SeriesSection()
    """Series to forecast."""
    grid: GridSection = GridSection()
    """Forecasters, trainings, seeds, horizons and perturbations."""
    fit: FitSection = FitSection()
    """Training of forecasters."""
    timesieve: TimeSieveSection = TimeSieveSection()
    """Architecture of TimeSieve."""
    faithful: FaithfulSection = FaithfulSection()
    """Loss of faithful training."""
    worst: WorstSection = WorstSection()
    """Search for the worst perturbation of fitted forecasters."""
    verdict: VerdictSection = VerdictSection()
    """Thresholds of the verdict."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if "timesieve" in self.grid.forecasters:
            from stratoscope.forecasting import make_wavelet

            try:
                wavelet = make_wavelet(self.timesieve.wavelet)
                for horizon in self.grid.horizons:
                    wavelet.length(self.lookback(horizon))
            except InputError as error:
                raise ValueError(str(error)) from None
        if "missing" in self.grid.perturbations and max(self.grid.levels) > 1:
            raise ValueError("grid.levels: a level of missing values is a share and must not exceed 1")
        if "plain" not in self.grid.trainings:
            raise ValueError("grid.trainings must include plain: the other trainings start from it")
        return self

    def lookback(self, horizon: int) -> int:
        """Return the number of points that a forecast of a horizon is made from."""
        return self.fit.lookback or 2 * horizon

    def cell_settings(self, cell: "GridCell", channels: int) -> "CellSettings":
        """Return the settings of a cell, for a series with a number of columns."""
        from stratoscope.forecasting import CellSettings

        lookback = self.lookback(cell.horizon)
        faithful = cell.training in FAITHFUL_TRAININGS
        return CellSettings(
            lookback=lookback,
            fit=self.fit.to_settings(cell.forecaster, cell.training),
            loss=self.faithful.to_loss(cell.training, lookback * channels, self.fit.error) if faithful else None,
            timesieve=self.timesieve.to_settings(),
            perturbations=tuple(self.grid.perturbations),
            levels=tuple(self.grid.levels),
            search=self.worst.to_settings(),
            seed=self.seed,
        )
