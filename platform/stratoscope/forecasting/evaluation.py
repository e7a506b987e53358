"""Fitting one cell of the grid, and measuring its forecasts with and without perturbations."""

import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from stratoscope.data import Series, SeriesSplit
from stratoscope.forecasting.ascent import AscentSettings, ascend, radius_scale
from stratoscope.forecasting.faithful import (
    attack_objective,
    cached_weights,
    distance,
    frozen,
    worst_case,
)
from stratoscope.forecasting.fitting import (
    INFERENCE_BATCH,
    Data,
    Epoch,
    Windows,
    errors,
    fit,
    fit_faithfully,
    predict,
)
from stratoscope.forecasting.forecasters import FORECASTERS, Shape
from stratoscope.forecasting.grid import CellSettings, GridCell
from stratoscope.forecasting.measurements import NONE, ForecastPoint, Measurement, WorstCaseMeasurement
from stratoscope.forecasting.options import AttackGoal, Norm
from stratoscope.forecasting.perturbations import PARAMETER, PERTURBATIONS, has_bottleneck, perturbed_parameters
from stratoscope.forecasting.timesieve import Forecast

Tensor = torch.Tensor
ASCENT_REACH = 2.5
"""Length of all steps of a search in multiples of the radius: from any start it can reach the opposite side."""
PARAMETER_DRAWS = 5
"""Draws of parameter noise, over which errors are averaged."""


@dataclass(frozen=True, eq=False)
class FittedCell:
    """A fitted forecaster with its forecast of the test windows."""

    cell: GridCell
    """Identity of the forecaster."""
    model: nn.Module
    """The forecaster in evaluation mode."""
    epochs: list[Epoch]
    """Progress of training."""
    seconds: float
    """Time of training."""
    test: Windows
    """The test windows."""
    forecast: Tensor
    """Forecast of the test windows, shape (W, H, C)."""
    teacher_forecast: Tensor | None
    """Forecast of the teacher, shape (W, H, C); None for trainings without one."""


def fit_cell(
    cell: GridCell,
    settings: CellSettings,
    series: Series,
    device: str = "cpu",
    weights: Mapping[str, Tensor] | None = None,
    *,
    teacher_weights: Mapping[str, Tensor] | None = None,
) -> FittedCell:
    """Fit the forecaster of a cell.

    Args:
        cell: the forecaster, its training and its seed.
        settings: settings of the cell.
        series: the series, whose training part it is fitted to.
        device: device of the model.
        weights: weights of plain training, which the other trainings start from.
        teacher_weights: weights of the teacher; None takes those that training starts from.

    Raises:
        DivergedError: the loss is not finite.
    """
    train, validation, test = (
        _windows(series, part, settings.lookback, cell.horizon, device) for part in get_args(SeriesSplit)
    )
    data = Data(train, validation)
    torch.manual_seed(cell.seed)
    shape = Shape(settings.lookback, cell.horizon, len(series.columns))
    model = _make(cell, shape, settings, device, weights)
    teacher = model if teacher_weights is None else _make(cell, shape, settings, device, teacher_weights)
    epochs: list[Epoch] = []
    teacher_forecast = None
    started = time.perf_counter()
    if settings.loss is None:
        fit(model, data, settings.fit, cell.seed, on_epoch=epochs.append)
    else:
        teacher_forecast = _seeded_forecast(teacher, test, cell.seed)
        fit_faithfully(model, data, settings.fit, settings.loss, cell.seed, teacher=teacher, on_epoch=epochs.append)
    seconds = time.perf_counter() - started
    forecast = _seeded_forecast(model.eval(), test, cell.seed)
    return FittedCell(cell, model, epochs, seconds, test, forecast, teacher_forecast)


def _make(
    cell: GridCell, shape: Shape, settings: CellSettings, device: str, weights: Mapping[str, Tensor] | None
) -> nn.Module:
    """Return the forecaster of a cell with these weights; with random ones for None."""
    model = FORECASTERS[cell.forecaster].make(shape, settings.timesieve).to(device)
    if weights is not None:
        model.load_state_dict(weights)
    return model


def measure_errors(fitted: FittedCell, settings: CellSettings) -> Iterator[Measurement]:
    """Yield the errors of a fitted forecaster without a perturbation, and under each perturbation and level."""
    cell = vars(fitted.cell)
    yield Measurement(
        **cell, perturbation=NONE, level=0.0, seconds=fitted.seconds, **_mean_errors(fitted, [fitted.forecast])
    )
    for name in settings.perturbations:
        if name == PARAMETER and not has_bottleneck(fitted.model):
            continue
        for level in filter(None, settings.levels):
            started = time.perf_counter()
            means = _mean_errors(fitted, _perturbed_forecasts(fitted, settings, name, level))
            seconds = time.perf_counter() - started
            yield Measurement(**cell, perturbation=name, level=level, seconds=seconds, **means)


def measure_worst_cases(fitted: FittedCell, settings: CellSettings) -> Iterator[WorstCaseMeasurement]:
    """Yield the conditions of faithfulness: sib and snp by norm and goal of the search, then cps."""
    search, test, cell = settings.search, fitted.test, vars(fitted.cell)
    number = min(search.windows, len(test))
    indices = torch.linspace(0, len(test) - 1, number).round().long().to(fitted.forecast.device)
    batch = test.batch(indices)
    model = _FixedDraws(fitted.model, fitted.cell.seed).eval()
    for norm in search.norms:
        radius = radius_scale(norm, batch[0][0].numel()) * search.radius
        ascent = search_ascent(radius, search.steps, norm)
        for goal in get_args(AttackGoal):
            worst = worst_case(model, batch, goal, ascent, _noise_source(settings.seed, norm, radius))
            searched = {"norm": norm, "goal": goal, "radius": radius, "windows": number}
            yield WorstCaseMeasurement(**cell, condition="sib", **searched, **_largest_and_mean(worst.sib))
            yield WorstCaseMeasurement(**cell, condition="snp", **searched, **_largest_and_mean(worst.snp))
    teacher = fitted.teacher_forecast
    values = _largest_and_mean(None if teacher is None else distance(fitted.forecast, teacher))
    yield WorstCaseMeasurement(**cell, condition="cps", norm=None, goal=None, radius=None, windows=len(test), **values)


def example_forecast(fitted: FittedCell, series: Series) -> Iterator[ForecastPoint]:
    """Yield the points of the middle test window and of its forecast, channel by channel."""
    index = len(fitted.test) // 2
    windows, target = fitted.test.batch(torch.tensor([index], device=fitted.forecast.device))
    lookback = windows.shape[1]
    for channel, name in enumerate(series.columns):
        mean, deviation = float(series.mean[channel]), float(series.deviation[channel])
        truth = torch.cat([windows[0, :, channel], target[0, :, channel]]).tolist()
        forecast = [None] * lookback + fitted.forecast[index, :, channel].tolist()
        for step, (value, true_value) in enumerate(zip(forecast, truth, strict=True), start=1 - lookback):
            yield ForecastPoint(
                **vars(fitted.cell),
                channel=name,
                step=step,
                value=None if value is None else value * deviation + mean,
                truth=true_value * deviation + mean,
            )


def search_ascent(radius: float, steps: int, norm: Norm = "linf") -> AscentSettings:
    """Return the settings of a search for the worst perturbation, whose steps are long enough to cross the ball."""
    return AscentSettings(radius, ASCENT_REACH * radius / steps, steps, norm)


def _windows(series: Series, part: SeriesSplit, lookback: int, horizon: int, device: str) -> Windows:
    starts = torch.from_numpy(series.starts(part, lookback, horizon))
    return Windows(torch.from_numpy(series.values).to(device), starts.to(device), lookback, horizon)


def _seeded_forecast(model: nn.Module, windows: Windows, seed: int) -> Tensor:
    """Return the forecasts of windows; a forecaster that samples at test time draws the same in every call."""
    torch.manual_seed(seed)
    return predict(model, windows)


def _mean_errors(fitted: FittedCell, forecasts: Iterable[Tensor]) -> dict[str, Any]:
    """Return the errors of forecasts of the test windows and their change, averaged over draws."""
    draws = [
        errors(forecast, fitted.test) | {"moved": (forecast - fitted.forecast).double().abs().mean().item()}
        for forecast in forecasts
    ]
    return {name: sum(draw[name] for draw in draws) / len(draws) for name in draws[0]}


def _perturbed_forecasts(fitted: FittedCell, settings: CellSettings, name: str, level: float) -> Iterator[Tensor]:
    """Yield the forecast of all test windows under each draw of a perturbation, independent of earlier ones."""
    generator = _noise_source(settings.seed, name, level)
    if name == PARAMETER:
        for _ in range(PARAMETER_DRAWS):
            with perturbed_parameters(fitted.model, level, generator):
                yield _seeded_forecast(fitted.model, fitted.test, fitted.cell.seed)
        return
    torch.manual_seed(fitted.cell.seed)
    disturb = PERTURBATIONS[name].disturb
    forecasts = []
    with cached_weights(fitted.model):
        for windows, target in fitted.test.batches(INFERENCE_BATCH):
            if disturb is None:
                ascent = search_ascent(level, settings.search.steps)
                perturbed = windows + _attack(fitted, windows, target, ascent, generator)
            else:
                perturbed = disturb(windows, level, generator)
            with torch.no_grad():
                forecasts.append(fitted.model(perturbed).values)
    yield torch.cat(forecasts)


def _attack(
    fitted: FittedCell, windows: Tensor, target: Tensor, ascent: AscentSettings, generator: torch.Generator
) -> Tensor:
    """Return the perturbation of windows that maximises the error of the forecast."""
    model = _FixedDraws(fitted.model, fitted.cell.seed).eval()
    # The attack must not advance the generator that the model draws from afterwards.
    devices = [windows.device] if windows.is_cuda else []
    with frozen(model), torch.random.fork_rng(devices=devices):
        objective = attack_objective(model, windows, target, "error")
        return ascend(objective, windows, ascent, generator, keep_best=True)


class _FixedDraws(nn.Module):
    """A forecaster with the same random draws in every pass, so that an ascent finds perturbations, not lucky draws."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.model, self._seed = model, seed

    def forward(self, series: Tensor) -> Forecast:
        torch.manual_seed(self._seed)
        forecast: Forecast = self.model(series)
        return forecast


def _largest_and_mean(values: Tensor | None) -> dict[str, Any]:
    if values is None:
        return {"value": None, "mean": None}
    return {"value": float(values.max()), "mean": float(values.mean())}


def _noise_source(seed: int, name: str, level: float) -> torch.Generator:
    """Return the generator of a perturbation's noise, which is the same for all cells."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name} {level:.12g}".encode()))
