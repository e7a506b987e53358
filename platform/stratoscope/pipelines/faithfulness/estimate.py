"""Estimated cost of a faithfulness run."""

import os
from collections.abc import Mapping, Sequence

import torch

from stratoscope.data import Series
from stratoscope.forecasting import (
    ADVERSARIAL,
    DESIGNS,
    FORECASTERS,
    PARAMETER,
    PARAMETER_DRAWS,
    GridCell,
    Shape,
    Windows,
)
from stratoscope.forecasting.speed import ForecasterSpeed, measure_speed
from stratoscope.pipelines.faithfulness.config import FaithfulnessConfig
from stratoscope.pipelines.faithfulness.facts import SeriesFacts
from stratoscope.pipelines.runtime.costs import MemoryEstimate, RunCost
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES

COPIES = 5
"""Copies of the parameters in memory: weights, gradients, Adam's two moments, and the best weights so far."""
WORST_CASE_ASCENTS = 4
"""Ascents for each norm: sib, snp, both, and the error."""


def estimate(
    config: FaithfulnessConfig, series: Mapping[str, Series], cells: Sequence[GridCell]
) -> Sequence[tuple[str, str]]:
    """Return the lines of a dry run: series, grid and cost."""
    num_perturbed = len(config.grid.perturbations) * sum(level > 0 for level in config.grid.levels)
    speeds: dict[tuple[str, str, int], ForecasterSpeed] = {}
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
        bound="at most ",
    )
    return [
        *(line for name, each in series.items() for line in SeriesFacts.of(each, config).lines(name)),
        ("grid", f"{len(cells)} cells, each met with at most {num_perturbed} perturbations"),
        *cost.lines(),
    ]


def _seconds(config: FaithfulnessConfig, series: Series, cell: GridCell, speed: ForecasterSpeed) -> float:
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
    # Training with an ascent runs the model on the original and on the perturbed windows.
    ascent = DESIGNS[cell.training].ascent
    step = 2 * speed.train + config.faithful.steps * speed.ascent if ascent else speed.train
    return evaluation + epochs * train * step


def _measure(config: FaithfulnessConfig, series: Series, cell: GridCell) -> ForecasterSpeed:
    """Time a forecaster with random weights."""
    lookback = config.lookback(cell.horizon)
    starts = torch.from_numpy(series.starts("train", lookback, cell.horizon)[: config.fit.batch])
    windows = Windows(torch.from_numpy(series.values), starts, lookback, cell.horizon)
    inputs, target = windows.batch(torch.arange(len(starts)))
    shape = Shape(lookback, cell.horizon, len(series.columns))
    model = FORECASTERS[cell.forecaster].make(shape, config.timesieve.to_settings())
    return measure_speed(model, inputs, target, config.fit.error)
