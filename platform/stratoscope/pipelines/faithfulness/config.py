"""The fields of the faithfulness job."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from stratoscope.data import SeriesSource, SplitRule
from stratoscope.errors import InputError
from stratoscope.forecasting import (
    FORECASTERS,
    PERTURBATIONS,
    AscentSettings,
    Attack,
    Error,
    FaithfulLoss,
    FaithfulWeights,
    FitSettings,
    Norm,
    Preset,
    TimeSieveSettings,
    make_wavelet,
)
from stratoscope.pipelines.runtime.config import NOT_IN_IDENTITY, ConfigSection, JobConfig
from stratoscope.pipelines.runtime.validators import DISTINCT, NOT_NEGATIVE, POSITIVE, named

Training = Literal["plain", "longer", "faithful", "without_sib", "without_cps", "without_snp"]
TRAININGS: tuple[Training, ...] = get_args(Training)
"""In the order of tables: what others are held against stands before them."""
LEFT_OUT: Mapping[Training, str] = {"without_sib": "sib", "without_cps": "cps", "without_snp": "snp"}
"""The condition that an ablation of faithful training is without."""
FAITHFUL: tuple[Training, ...] = ("faithful", *LEFT_OUT)
TENTH = 0.1


class SeriesSection(ConfigSection):
    """The series."""

    source: Annotated[list[str], DISTINCT] = Field(["epf_fr"], min_length=1)
    """Known series, CSV or Parquet files, or hub names, separated by commas; each is a data set."""
    columns: Annotated[list[str], DISTINCT] = []
    """Columns; none takes all numeric ones."""
    split: SplitRule = "auto"
    """ett_hourly and ett_quarterly: 12, 4 and 4 months; ratio: 70, 10 and 20 %; auto knows ETT files by their names."""
    limit: int | None = Field(None, ge=10)
    """First rows that are kept; null keeps all."""

    def to_sources(self) -> list[SeriesSource]:
        """Return where each series is."""
        return [SeriesSource(source, tuple(self.columns), self.split, self.limit) for source in self.source]


class GridSection(ConfigSection):
    """What is fitted, and what it is met with."""

    forecasters: Annotated[list[str], DISTINCT, named(FORECASTERS, "forecaster")] = Field(
        ["timesieve", "dlinear"], min_length=1
    )
    """timesieve, dlinear, linear, last_value, patchtst, patchtsmixer."""
    trainings: Annotated[list[Training], DISTINCT] = Field(["plain", "faithful"], min_length=1)
    """plain; faithful, which goes on from plain; longer, which goes on from plain as long, and plainly: what faithful
    training has to be held against, for more epochs change a forecaster too; without_sib, without_cps and without_snp:
    faithful training without one of its conditions."""
    seeds: Annotated[list[int], DISTINCT] = Field([2021, 2022, 2023], min_length=1)
    """Each forecaster is fitted once with each; the first is the base that others are compared with."""
    horizons: Annotated[list[int], DISTINCT, POSITIVE] = Field([24], min_length=1)
    """Points that are forecast."""
    perturbations: Annotated[list[str], DISTINCT, named(PERTURBATIONS, "perturbation")] = PERTURBATIONS.own
    """gaussian, residual and missing of the input, parameter of the bottleneck, adversarial."""
    levels: Annotated[list[float], DISTINCT, NOT_NEGATIVE] = Field([0.0, 0.1, 0.2], min_length=1)
    """How strong; 0 is none, and always computed. A standard deviation in standard units (gaussian), of the window's
    residual (residual) or of each parameter (parameter), a share of values (missing), the most a value is changed
    (adversarial)."""
    cpus: float = Field(1, gt=0, json_schema_extra=NOT_IN_IDENTITY)
    """CPUs of a task; it computes with one thread, so that numbers do not depend on the machine's cores."""
    gpus: float | None = Field(None, ge=0)
    """GPUs of a task, or a share of one; null takes a quarter where the cluster has any."""


class FitSection(ConfigSection):
    """How forecasters are fitted."""

    epochs: int = Field(10, ge=1)
    """Passes over the training windows."""
    faithful_epochs: int | None = Field(None, ge=1)
    """The same of what goes on from plain training; null is as many. The paper says 10, the public code 30."""
    batch: int = Field(32, ge=1)
    """Windows of a step."""
    learning_rate: float | None = Field(None, gt=0)
    """Of Adam, in the first two epochs; null is each forecaster's own: timesieve 0.0001, patchtst and
    patchtsmixer 0.001, linear and dlinear 0.005."""
    decay: float = Field(0.5, gt=0, le=1)
    """Of the learning rate, after every later epoch."""
    patience: int = Field(3, ge=0)
    """Epochs without a better validation error until plain fitting ends; 0 goes on to the last."""
    error: Literal["mae", "mse"] = "mae"
    """Error that fitting makes small; mae as in FTS's code, mse as in TimeSieve's."""
    lookback: int | None = Field(None, ge=2)
    """Points that a forecast is made from; null is twice the horizon."""

    def to_settings(self, forecaster: str, training: Training) -> FitSettings:
        """Return how a forecaster is fitted; what goes on from plain goes to its last epoch."""
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
    """How a TimeSieve is built."""

    preset: Preset = "reference"
    """reference: as the public code does; paper: as the paper says."""
    wavelet: str = "db1"
    """As PyWavelets names it; db1 is Haar's."""
    samples_at_test: bool = False
    """Draw the latent at test time, too, as the public code does."""

    def to_settings(self) -> TimeSieveSettings:
        """Return the model's settings."""
        return replace(TimeSieveSettings.of(self.preset), wavelet=self.wavelet, samples_at_test=self.samples_at_test)


class FaithfulSection(ConfigSection):
    """The loss of faithful training."""

    sib: float = Field(0.05, ge=0)
    """Weight of similarity in the bottleneck space."""
    cps: float = Field(1.0, ge=0)
    """Weight of consistency with the plain forecaster."""
    snp: float = Field(0.05, ge=0)
    """Weight of stability under noise."""
    uphill: Attack = "error"
    """What perturbations make large: error, as the public code does, or conditions, as the paper says."""
    radius: float = Field(0.15, gt=0)
    """Of the linf ball of perturbations, in standard units; the l2 ball is as large as that of a window all of whose
    elements moved by a tenth of it."""
    step: float = Field(0.01, gt=0)
    """Of an ascent, likewise."""
    steps: int = Field(20, ge=1)
    """Of an ascent."""
    norm: Norm = "linf"
    """Of the ball: linf or l2."""

    def to_loss(self, training: Training, elements: int, error: Error) -> FaithfulLoss:
        """Return the loss of a training on windows of so many elements, whose own error is made small."""
        scale = ball(self.norm, elements)
        ascent = AscentSettings(scale * self.radius, scale * self.step, self.steps, self.norm)
        weights = FaithfulWeights(self.sib, self.cps, self.snp)
        if training in LEFT_OUT:
            weights = replace(weights, **{LEFT_OUT[training]: 0.0})
        return FaithfulLoss(weights, ascent, self.uphill, error)


def ball(norm: Norm, elements: int) -> float:
    """Return what a radius is multiplied by, of windows of so many elements."""
    return 1.0 if norm == "linf" else TENTH * elements**0.5


class WorstSection(ConfigSection):
    """The search for the worst perturbation of fitted forecasters."""

    windows: int = Field(128, ge=1)
    """Test windows, evenly spread, that are searched around."""
    norms: Annotated[list[Norm], DISTINCT] = Field(["linf", "l2"], min_length=1)
    """Of the balls."""
    radius: float = Field(0.15, gt=0)
    """Of the linf ball, in standard units; the l2 ball is as large as that of a window all of whose elements moved by
    a tenth of it."""
    steps: int = Field(20, ge=1)
    """Of an ascent."""


class VerdictSection(ConfigSection):
    """From when on a forecaster is said not to survive."""

    spread: float = Field(0.05, gt=0)
    """Standard deviation of the squared error over seeds, by its mean."""
    degradation: float = Field(0.1, gt=0)
    """Growth of the absolute error under a perturbation, by the error without."""


class FaithfulnessConfig(JobConfig):
    """See whether forecasts survive another seed and perturbed inputs, and whether faithful training helps."""

    series: SeriesSection = SeriesSection()
    """The series."""
    grid: GridSection = GridSection()
    """What is fitted, and what it is met with."""
    fit: FitSection = FitSection()
    """How forecasters are fitted."""
    timesieve: TimeSieveSection = TimeSieveSection()
    """How a TimeSieve is built."""
    faithful: FaithfulSection = FaithfulSection()
    """The loss of faithful training."""
    worst: WorstSection = WorstSection()
    """The search for the worst perturbation."""
    verdict: VerdictSection = VerdictSection()
    """From when on a forecaster is said not to survive."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if "timesieve" in self.grid.forecasters:
            try:
                wavelet = make_wavelet(self.timesieve.wavelet)
                for horizon in self.grid.horizons:
                    wavelet.length(self.lookback(horizon))
            except InputError as error:
                raise ValueError(str(error)) from None
        if "missing" in self.grid.perturbations and max(self.grid.levels) > 1:
            raise ValueError("grid.levels: of missing values a level is a share, and cannot be above 1")
        if "plain" not in self.grid.trainings:
            raise ValueError("grid.trainings: the others go on from plain, so plain has to be among them")
        return self

    def lookback(self, horizon: int) -> int:
        """Return how many points a forecast of a horizon is made from."""
        return self.fit.lookback or 2 * horizon
