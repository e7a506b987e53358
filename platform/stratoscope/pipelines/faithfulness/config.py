"""Configuration of the faithfulness job."""

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from stratoscope.data import DateOrder, DecimalMark, Delimiter, Fill, Header, SeriesSource, SplitRule
from stratoscope.errors import InputError
from stratoscope.forecasting import DESIGNS, Attack, Error, Norm, Preset, Training
from stratoscope.pipelines.runtime.config import NOT_IN_IDENTITY, ConfigSection, JobConfig
from stratoscope.pipelines.runtime.demand import Demand
from stratoscope.pipelines.runtime.validators import (
    DISTINCT,
    Count,
    CountOrZero,
    FractionOrOne,
    Gpus,
    NotNegative,
    Place,
    Positive,
    Seed,
    named,
)

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

    source: Annotated[list[Place], DISTINCT] = Field(["epf_fr"], min_length=1)
    """Known series, files (CSV, TSV, text, JSON lines, Parquet, Arrow) or hub names, separated by commas; each is a
    data set."""
    columns: Annotated[list[str], DISTINCT] = []
    """Columns of the series; an empty list takes all numeric columns. In long form: columns of values, or names of
    series."""
    time: Annotated[list[str], DISTINCT] = []
    """Columns that together state the time, such as Date,Time; an empty list recognises them, none takes rows in the
    order of the file."""
    id: str | None = None
    """Column that names the series of a row in long form; null recognises it."""
    fill: Fill = "none"
    """Repairs times and values. none refuses what needs repair; interpolate and forward sort rows by time, keep the
    last row of equal times, insert missing times, and fill missing values: interpolate linearly between the neighbours
    in time, forward with the last known value."""
    missing: Annotated[list[Annotated[str, BeforeValidator(str)]], DISTINCT] | None = None
    """Cells that are missing values, besides empty ones. null takes usual marks (NA, NaN, null, ?, -) and numbers such
    as -9999 that lie far from all others."""
    decimal: DecimalMark = "auto"
    """Decimal mark of numbers in text: point or comma; auto recognises it for each column."""
    delimiter: Delimiter = "auto"
    """Delimiter of text files; auto recognises all but space."""
    header: Header = "auto"
    """Whether the first line of a text file names the columns; auto recognises it."""
    dates: DateOrder = "auto"
    """Order of dates such as 01/02/2020; auto recognises it where the dates leave one reading."""
    encoding: str | None = None
    """Encoding of text files, such as latin-1; null takes UTF-8, or UTF-16 with a byte-order mark."""
    split: SplitRule = "auto"
    """Training, validation and test parts. ett_hourly and ett_quarterly: 12, 4 and 4 months; ratio: 70, 10 and 20 %;
    auto: by months for ETT files, recognised by name, and by ratio otherwise."""
    limit: Count | None = Field(None, ge=10)
    """Number of times read, from the oldest; null reads all."""

    def to_sources(self) -> list[SeriesSource]:
        """Return the source of each series."""
        return [
            SeriesSource(
                source,
                tuple(self.columns),
                self.split,
                self.limit,
                fill=self.fill,
                time=tuple(self.time),
                id=self.id,
                missing=None if self.missing is None else tuple(self.missing),
                decimal=self.decimal,
                delimiter=self.delimiter,
                header=self.header,
                dates=self.dates,
                encoding=self.encoding,
            )
            for source in self.source
        ]


class GridSection(ConfigSection):
    """Forecasters, trainings, seeds, horizons and perturbations."""

    forecasters: Annotated[list[str], DISTINCT, named(_forecasters, "forecaster")] = Field(
        ["timesieve", "dlinear"], min_length=1
    )
    """Forecasters: timesieve, dlinear, linear, last_value, patchtst, patchtsmixer."""
    trainings: Annotated[list[Training], DISTINCT] = Field(["plain", "faithful"], min_length=1)
    """Trainings. plain; faithful: faithful fine-tuning of the plain forecaster; longer: as many further epochs of plain
    training, the reference for faithful training, since more epochs change a forecaster too; distilled: these with
    consistency with the teacher, but no perturbations; without_sib, without_cps and without_snp: faithful training
    without one of its conditions. distilled_to_first and faithful_to_first: all seeds have the first seed's plain
    forecaster as their teacher; longer_from_first, distilled_from_first and faithful_from_first: all seeds start from
    its weights too, as in the public code."""
    seeds: Annotated[list[Seed], DISTINCT] = Field([2021, 2022, 2023], min_length=1)
    """Seeds, with each of which every forecaster is trained; the first is the base of the preference."""
    horizons: Annotated[list[Count], DISTINCT] = Field([24], min_length=1)
    """Numbers of points forecast."""
    perturbations: Annotated[list[str], DISTINCT, named(_perturbations, "perturbation")] = [
        "gaussian",
        "residual",
        "missing",
        "parameter",
        "adversarial",
    ]
    """Perturbations: gaussian, residual, missing and adversarial change the input, parameter the bottleneck."""
    levels: Annotated[list[NotNegative], DISTINCT] = Field([0.0, 0.1, 0.2], min_length=1)
    """Levels of the perturbations; 0 is always computed. A level is a standard deviation in standard units (gaussian),
    relative to the window's residual (residual) or to each parameter (parameter), a share of values (missing), or the
    largest change of a value (adversarial)."""
    cpus: float = Field(1, gt=0, le=10_000, json_schema_extra=NOT_IN_IDENTITY)
    """CPUs of a task. A task computes with one thread, so results do not depend on the number of cores."""
    gpus: Gpus | None = None
    """GPUs of a task; null takes a quarter of a GPU where the cluster has any."""

    def demand(self, name: str) -> Demand:
        """Return one task and its resources."""
        return Demand({"CPU": self.cpus, "GPU": self.gpus or 0}, {"CPU": f"{name}.cpus", "GPU": f"{name}.gpus"})


class FitSection(ConfigSection):
    """Training of forecasters."""

    epochs: Count = 10
    """Epochs of plain training."""
    faithful_epochs: Count | None = None
    """Epochs of the trainings that start from the plain forecaster; null takes as many. The paper has 10, the public
    code 30."""
    batch: Count = 32
    """Windows of a step."""
    learning_rate: Positive | None = None
    """Learning rate of Adam in the first two epochs; null takes the forecaster's default: timesieve 0.0001, patchtst
    and patchtsmixer 0.001, linear and dlinear 0.005."""
    decay: FractionOrOne = 0.5
    """Factor of the learning rate after every later epoch."""
    patience: CountOrZero = 3
    """Epochs without a better validation error until plain training stops; 0 trains to the end."""
    error: Error = "mae"
    """Error that training minimises; mae as in the code of FTS, mse as in that of TimeSieve."""
    lookback: Count | None = Field(None, ge=2)
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

    sib: NotNegative = 0.05
    """Weight of similarity in the bottleneck space."""
    cps: NotNegative = 1.0
    """Weight of consistency in the prediction space, with the teacher."""
    snp: NotNegative = 0.05
    """Weight of stability under noise."""
    uphill: Attack = "error"
    """Objective that perturbations maximise: error, as in the public code, or conditions, as in the paper."""
    radius: Positive = 0.15
    """Radius of the linf ball of perturbations in standard units; the l2 ball is as large as a window all of whose
    elements move by a tenth of it."""
    step: Positive = 0.01
    """Step size of an ascent, scaled like the radius."""
    steps: Count = 20
    """Steps of an ascent."""
    norm: Norm = "linf"
    """Norm of the ball: linf or l2."""

    def to_loss(self, training: Training, elements: int, error: Error) -> "FaithfulLoss":
        """Return the loss of a training with a teacher, on windows of so many elements."""
        from stratoscope.forecasting import AscentSettings, FaithfulLoss, FaithfulWeights, radius_scale

        design = DESIGNS[training]
        scale = radius_scale(self.norm, elements)
        ascent = AscentSettings(scale * self.radius, scale * self.step, self.steps, self.norm)
        weights = FaithfulWeights(self.sib, self.cps, self.snp)
        if design.omitted:
            weights = replace(weights, **{design.omitted: 0.0})
        return FaithfulLoss(weights, ascent if design.ascent else None, self.uphill, error)


class WorstSection(ConfigSection):
    """Search for the worst perturbation of fitted forecasters."""

    windows: Count = 128
    """Number of test windows searched, evenly spaced."""
    norms: Annotated[list[Norm], DISTINCT] = Field(["linf", "l2"], min_length=1)
    """Norms of the balls."""
    radius: Positive = 0.15
    """Radius of the linf ball in standard units; the l2 ball is as large as a window all of whose elements move by a
    tenth of it."""
    steps: Count = 20
    """Steps of an ascent."""

    def to_settings(self) -> "SearchSettings":
        """Return the settings of the search."""
        from stratoscope.forecasting import SearchSettings

        return SearchSettings(self.windows, tuple(self.norms), self.radius, self.steps)


class VerdictSection(ConfigSection):
    """Thresholds of the verdict."""

    spread: Positive = 0.05
    """Largest standard deviation of the squared error over seeds, relative to its mean, that counts as surviving."""
    degradation: Positive = 0.1
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
        taught = DESIGNS[cell.training].teacher is not None
        return CellSettings(
            lookback=lookback,
            fit=self.fit.to_settings(cell.forecaster, cell.training),
            loss=self.faithful.to_loss(cell.training, lookback * channels, self.fit.error) if taught else None,
            timesieve=self.timesieve.to_settings(),
            perturbations=tuple(self.grid.perturbations),
            levels=tuple(self.grid.levels),
            search=self.worst.to_settings(),
            seed=self.seed,
        )
