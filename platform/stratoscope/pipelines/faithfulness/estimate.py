"""Estimated cost of a faithfulness run."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from stratoscope.data import Series
from stratoscope.forecasting import (
    ADVERSARIAL,
    FORECASTERS,
    PARAMETER,
    AscentSettings,
    Shape,
    Windows,
    ascend,
    attack_objective,
    error_of,
    frozen,
)
from stratoscope.pipelines.faithfulness.cells import PARAMETER_DRAWS, GridCell
from stratoscope.pipelines.faithfulness.config import FAITHFUL, FaithfulnessConfig
from stratoscope.pipelines.runtime.costs import MemoryEstimate, RunCost
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES

COPIES = 5
"""Copies of the parameters in memory: weights, gradients, Adam's two moments, the best so far."""
WORST_CASE_ASCENTS = 4
"""Ascents for each norm: sib, snp, both, and the error."""


@dataclass(frozen=True)
class _ForecasterSpeed:
    """Speed of a forecaster on one thread of this machine."""

    train: float
    """Seconds of a training step on one batch."""
    ascent: float
    """Seconds of an ascent step on one batch."""
    num_parameters: int


def estimate(
    config: FaithfulnessConfig, series: Mapping[str, Series], cells: Sequence[GridCell]
) -> Sequence[tuple[str, str]]:
    """Return the lines of a dry run: series, grid and cost."""
    num_perturbed = len(config.grid.perturbations) * sum(level > 0 for level in config.grid.levels)
    speeds: dict[tuple[str, str, int], _ForecasterSpeed] = {}
    seconds = 0.0
    for cell in cells:
        key = cell.dataset, cell.forecaster, cell.horizon
        if key not in speeds:
            speeds[key] = _measure(config, series[cell.dataset], cell)
        seconds += _seconds(config, series[cell.dataset], cell, speeds[key])
    concurrency = min(len(cells), max(1, int((os.cpu_count() or 1) / config.grid.cpus)))
    memory = PROCESS_BYTES + COPIES * 4 * max(speed.num_parameters for speed in speeds.values())
    cost = RunCost(
        seconds=seconds / concurrency,
        further_time="and some 20 s to start",
        memory=MemoryEstimate(memory, "tasks at a time", concurrency),
        rows={"cells": len(cells) * (1 + num_perturbed)},
        rows_at_most=True,
    )
    return [
        *((f"series {name}", f"{len(s.values):,} rows, columns {', '.join(s.columns)}") for name, s in series.items()),
        ("grid", f"{len(cells)} cells, each met with at most {num_perturbed} perturbations"),
        *cost.lines(),
    ]


def _seconds(config: FaithfulnessConfig, series: Series, cell: GridCell, speed: _ForecasterSpeed) -> float:
    """Return the seconds of training and evaluating a cell."""
    lookback, batch = config.lookback(cell.horizon), config.fit.batch
    train, test = (len(series.starts(part, lookback, cell.horizon)) / batch for part in ("train", "test"))
    levels = sum(level > 0 for level in config.grid.levels)
    attacks = levels * (ADVERSARIAL in config.grid.perturbations)
    worst_case = WORST_CASE_ASCENTS * len(config.worst.norms) * config.worst.windows / batch
    others = [name for name in config.grid.perturbations if name != ADVERSARIAL]
    passes = levels * sum(PARAMETER_DRAWS if name == PARAMETER else 1 for name in others)
    evaluation = test * passes * speed.train
    evaluation += (test * attacks + worst_case) * config.worst.steps * speed.ascent
    if not FORECASTERS[cell.forecaster].trainable:
        return evaluation
    epochs = config.fit.to_settings(cell.forecaster, cell.training).epochs
    # Faithful training passes windows and perturbed windows.
    step = 2 * speed.train + config.faithful.steps * speed.ascent if cell.training in FAITHFUL else speed.train
    return evaluation + epochs * train * step


def _measure(config: FaithfulnessConfig, series: Series, cell: GridCell) -> _ForecasterSpeed:
    """Time a forecaster with random weights."""
    lookback = config.lookback(cell.horizon)
    starts = torch.from_numpy(series.starts("train", lookback, cell.horizon)[: config.fit.batch])
    windows = Windows(torch.from_numpy(series.values), starts, lookback, cell.horizon)
    inputs, target = windows.batch(torch.arange(len(starts)))
    shape = Shape(lookback, cell.horizon, len(series.columns))
    model = FORECASTERS[cell.forecaster].make(shape, config.timesieve.to_settings())

    weights = list(model.parameters())
    optimizer = torch.optim.Adam(weights, fused=True) if weights else None

    def train() -> None:
        loss = error_of(model(inputs).values, target, config.fit.error).mean()
        if optimizer is not None:
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    def climb(steps: int) -> None:
        settings = AscentSettings(steps=steps)
        with frozen(model):
            objective = attack_objective(model, inputs, target, "error")
            ascend(objective, inputs, settings, torch.Generator().manual_seed(0))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The difference leaves out what an ascent sets up.
        ascent_step = max(0.0, _time(lambda: climb(6)) - _time(lambda: climb(1))) / 5
        return _ForecasterSpeed(_time(train), ascent_step, sum(p.numel() for p in weights))
    finally:
        torch.set_num_threads(threads)


def _time(call: Callable[[], None]) -> float:
    """Return the seconds of a call, the faster of two after one that warms up."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
