"""The cells of the grid: each is one forecaster, fitted, met with every perturbation, and kept in the run's folder."""

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import pyarrow as pa
import torch
from safetensors.torch import load, save
from torch import nn

from stratoscope.data import Series
from stratoscope.forecasting import (
    FORECASTERS,
    PARAMETER,
    PERTURBATIONS,
    AscentSettings,
    AttackGoal,
    Data,
    Epoch,
    Forecast,
    Shape,
    Windows,
    ascend,
    attack_objective,
    cached_weights,
    distance,
    errors,
    fit,
    fit_faithfully,
    frozen,
    has_bottleneck,
    perturbed_parameters,
    predict,
    worst_case,
)
from stratoscope.pipelines.faithfulness import tables
from stratoscope.pipelines.faithfulness.config import TRAININGS, FaithfulnessConfig, Training, ball
from stratoscope.results import Storage, check_reachable, from_rows, write_table

FOLDER = "cells"
PARTS = {"cells": tables.CELLS, "worst_case": tables.WORST, "forecasts": tables.FORECASTS, "epochs": tables.EPOCHS}
"""The tables that every cell has a part of."""
NONE = "none"
AT_ONCE = 512
"""Windows of a pass."""
REACH = 2.5
"""All steps of a search for the worst, by the radius: from wherever it starts it can reach the other side."""
PARAMETER_DRAWS = 5
"""Of parameter noise, for one may be lucky; errors are their means."""
Row = tuple[object, ...]
Tensor = torch.Tensor


@dataclass(frozen=True)
class GridCell:
    """A forecaster that is fitted."""

    dataset: str
    forecaster: str
    training: Training
    seed: int
    horizon: int

    @property
    def key(self) -> str:
        """Name of its files."""
        return f"{self.dataset}-{self.forecaster}-{self.horizon}-{self.seed}-{self.training}"

    @property
    def values(self) -> tuple[str, str, str, int, int]:
        """The first columns of its rows."""
        return self.dataset, self.forecaster, self.training, self.seed, self.horizon

    @property
    def plain(self) -> "GridCell":
        """The same with plain training."""
        return replace(self, training="plain")


@dataclass(frozen=True, eq=False)
class Shared:
    """What all cells take."""

    run: str
    """URL of the run's folder."""
    config: FaithfulnessConfig
    series: dict[str, Series]
    device: str


def grid(config: FaithfulnessConfig, datasets: Sequence[str]) -> list[GridCell]:
    """Return all cells, those that others begin with before these; what has no weights cannot be made faithful."""
    section = config.grid
    return [
        GridCell(dataset, forecaster, training, seed, horizon)
        for training in sorted(section.trainings, key=TRAININGS.index)
        for horizon in section.horizons
        for dataset in datasets
        for seed in section.seeds
        for forecaster in section.forecasters
        if training == "plain" or FORECASTERS[forecaster].trainable
    ]


def run_cell(shared: Shared, cell: GridCell) -> None:
    """Fit a forecaster, meet it with every perturbation, and keep what was found; the last file says that it is whole.

    Raises:
        DivergedError: a loss was no number.
        RunError: the run's folder is not on this node.
    """
    check_reachable(shared.run)
    if shared.device == "cpu":
        # Sums in another order would make other numbers.
        torch.set_num_threads(1)
    _Run(shared, cell).perform()


class _Run:
    def __init__(self, shared: Shared, cell: GridCell) -> None:
        self._config, self._cell, self._device = shared.config, cell, shared.device
        self._series = shared.series[cell.dataset]
        self._storage = Storage(shared.run).child(FOLDER)
        lookback = self._config.lookback(cell.horizon)
        values = torch.from_numpy(self._series.values).to(shared.device)

        def windows(part: Any) -> Windows:
            starts = torch.from_numpy(self._series.starts(part, lookback, cell.horizon)).to(shared.device)
            return Windows(values, starts, lookback, cell.horizon)

        self._data = Data(windows("train"), windows("validation"))
        self._test = windows("test")
        torch.manual_seed(cell.seed)
        shape = Shape(lookback, cell.horizon, len(self._series.columns))
        made = FORECASTERS[cell.forecaster].make(shape, self._config.timesieve.to_settings())
        self._model: nn.Module = made.to(shared.device)
        self._epochs: list[Epoch] = []

    def perform(self) -> None:
        """Fit, judge, keep."""
        started = time.perf_counter()
        taught = self._fit()
        seconds = time.perf_counter() - started
        self._model.eval()
        # Where a forecaster draws at test time, it draws the same for every input.
        torch.manual_seed(self._cell.seed)
        clean = predict(self._model, self._test)
        parts: dict[str, list[Row]] = {
            "epochs": [(*self._cell.values, e.number, e.loss, e.validation) for e in self._epochs],
            "worst_case": list(self._worst(clean, taught)),
            "forecasts": list(self._example(clean)),
            "cells": list(self._judged(clean, seconds)),
        }
        for name, rows in parts.items():
            write_table(self._storage, f"{self._cell.key}.{name}", from_rows(rows, PARTS[name]))

    def _fit(self) -> Tensor | None:
        """Fit the model; return what its teacher forecasts of the test windows, where it has one."""
        config, cell = self._config, self._cell
        how = config.fit.to_settings(cell.forecaster, cell.training)
        if cell.training == "plain":
            fit(self._model, self._data, how, cell.seed, told=self._epochs.append)
            if FORECASTERS[cell.forecaster].trainable:
                weights = {name: tensor.contiguous() for name, tensor in self._model.state_dict().items()}
                self._storage.write(f"{cell.key}.safetensors", save(weights))
            return None
        self._model.load_state_dict(load(self._storage.read(f"{cell.plain.key}.safetensors")))
        if cell.training == "longer":
            fit(self._model, self._data, how, cell.seed, told=self._epochs.append)
            return None
        # Where a forecaster draws at test time, teacher and pupil draw the same.
        torch.manual_seed(cell.seed)
        taught = predict(self._model, self._test)
        elements = self._test.batch(torch.tensor([0]))[0].numel()
        loss = config.faithful.to_loss(cell.training, elements, config.fit.error)
        fit_faithfully(self._model, self._data, how, loss, cell.seed, told=self._epochs.append)
        return taught

    def _judged(self, clean: Tensor, seconds: float) -> Iterator[Row]:
        grid_of = self._config.grid
        yield (*self._cell.values, NONE, 0.0, *self._errors(clean, clean), seconds, "done", None)
        for name in grid_of.perturbations:
            if name == PARAMETER and not has_bottleneck(self._model):
                continue
            for level in grid_of.levels:
                if not level:
                    continue
                begun = time.perf_counter()
                draws = [self._errors(found, clean) for found in self._forecasts(name, level)]
                own = [sum(column) / len(draws) for column in zip(*draws, strict=True)]
                yield (*self._cell.values, name, level, *own, time.perf_counter() - begun, "done", None)

    def _errors(self, found: Tensor, clean: Tensor) -> tuple[float, float, float]:
        own = errors(found, self._test)
        return own["mae"], own["mse"], (found - clean).double().abs().mean().item()

    def _forecasts(self, name: str, level: float) -> Iterator[Tensor]:
        """Yield the forecasts of all test windows under each draw of a perturbation, whatever ran before."""
        generator = self._generator(name, level)
        if name != PARAMETER:
            torch.manual_seed(self._cell.seed)
            yield self._disturbed(name, level, generator)
            return
        for _ in range(PARAMETER_DRAWS):
            with perturbed_parameters(self._model, level, generator):
                torch.manual_seed(self._cell.seed)
                yield predict(self._model, self._test)

    def _disturbed(self, name: str, level: float, generator: torch.Generator) -> Tensor:
        found = []
        disturb = PERTURBATIONS[name].disturb
        with cached_weights(self._model):
            for windows, target in self._test.batches(AT_ONCE):
                if disturb is None:
                    disturbed = windows + self._attack(windows, target, level, generator)
                else:
                    disturbed = disturb(windows, level, generator)
                with torch.no_grad():
                    found.append(self._model(disturbed).values)
        return torch.cat(found)

    def _attack(self, windows: Tensor, target: Tensor, level: float, generator: torch.Generator) -> Tensor:
        how = AscentSettings(level, self._step(level), self._config.worst.steps)
        model = self._steady
        # What the model draws while it is attacked is not to be missing afterwards.
        devices = [windows.device] if windows.is_cuda else []
        with frozen(model), torch.random.fork_rng(devices=devices):
            return ascend(attack_objective(model, windows, target, "error"), windows, how, generator, keep_best=True)

    def _step(self, radius: float) -> float:
        return REACH * radius / self._config.worst.steps

    def _worst(self, clean: Tensor, taught: Tensor | None) -> Iterator[Row]:
        section = self._config.worst
        number = min(section.windows, len(self._test))
        chosen = torch.linspace(0, len(self._test) - 1, number).round().long().to(clean.device)
        batch = self._test.batch(chosen)
        elements = batch[0][0].numel()
        for norm in section.norms:
            radius = ball(norm, elements) * section.radius
            how = AscentSettings(radius, self._step(radius), section.steps, norm)
            for goal in get_args(AttackGoal):
                found = worst_case(self._steady, batch, goal, how, self._generator(norm, radius))
                for condition, values in (("sib", found.sib), ("snp", found.snp)):
                    yield (*self._cell.values, condition, norm, goal, radius, *_most(values), number)
        distance_to = None if taught is None else distance(clean, taught)
        yield (*self._cell.values, "cps", None, None, None, *_most(distance_to), len(self._test))

    def _example(self, clean: Tensor) -> Iterator[Row]:
        middle = len(self._test) // 2
        windows, target = self._test.batch(torch.tensor([middle], device=clean.device))
        series = self._series
        for channel, name in enumerate(series.columns):
            mean, deviation = float(series.mean[channel]), float(series.deviation[channel])

            def own(value: Tensor, mean: float = mean, deviation: float = deviation) -> float:
                return float(value) * deviation + mean

            for step, value in enumerate(windows[0, :, channel], start=1 - windows.shape[1]):
                yield (*self._cell.values, name, step, None, own(value))
            for step in range(target.shape[1]):
                forecast, truth = own(clean[middle, step, channel]), own(target[0, step, channel])
                yield (*self._cell.values, name, step + 1, forecast, truth)

    @property
    def _steady(self) -> nn.Module:
        """The model, with the same draws in every pass: an ascent is to find perturbations, not lucky draws."""
        return _Steady(self._model, self._cell.seed).eval()

    def _generator(self, name: str, level: float) -> torch.Generator:
        """Return the source of a perturbation's draws: the same for all cells, so that they meet the same noise."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self._config.seed} {name} {level:.12g}".encode()))


class _Steady(nn.Module):
    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.model, self._seed = model, seed

    def forward(self, series: Tensor) -> Forecast:
        torch.manual_seed(self._seed)
        forecast: Forecast = self.model(series)
        return forecast


def _most(values: Tensor | None) -> tuple[float | None, float | None]:
    return (None, None) if values is None else (float(values.max()), float(values.mean()))


class CellStore:
    """What is finished of a run.

    Args:
        storage: the run's folder.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def missing(self, cells: Sequence[GridCell]) -> list[GridCell]:
        """Return the cells that are not finished."""
        there = set(self._storage.names(FOLDER))
        return [cell for cell in cells if f"{cell.key}.cells.parquet" not in there]

    def table(self, name: str, cells: Sequence[GridCell]) -> pa.Table:
        """Return the finished cells' parts of a table, in the order of the grid."""
        names = [f"{FOLDER}/{cell.key}.{name}.parquet" for cell in cells]
        found = self._storage.read_all(names)
        parts = [pa.parquet.read_table(pa.BufferReader(found[each])) for each in names]
        return pa.concat_tables(parts) if parts else PARTS[name].empty_table()

    def clear(self) -> None:
        """Remove everything, once the run's tables hold it."""
        self._storage.remove(FOLDER)
