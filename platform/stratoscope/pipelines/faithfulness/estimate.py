"""What a faithfulness run would do, and roughly what it takes, said before it starts."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from stratoscope.data import Series
from stratoscope.forecasting import (
    ADVERSARIAL,
    FAITHFUL_TRAININGS,
    FORECASTERS,
    PARAMETER,
    PARAMETER_DRAWS,
    AscentSettings,
    GridCell,
    Shape,
    Windows,
    ascend,
    attack_objective,
    error_of,
    frozen,
)
from stratoscope.pipelines.faithfulness.config import FaithfulnessConfig
from stratoscope.pipelines.runtime.hardware import PROCESS_BYTES

COPIES = 5
"""Of the parameters: weights, gradients, Adam's two moments, the best so far."""
ASCENTS_FOR_THE_WORST = 4
"""Of each norm: sib, snp, both, and the error."""


@dataclass(frozen=True)
class _Pace:
    """What a forecaster takes on one thread of this machine."""

    learn: float
    """Seconds of a step of learning, a batch."""
    climb: float
    """Seconds of a step of an ascent, a batch."""
    parameters: int
    """How many it has."""


def estimate(
    config: FaithfulnessConfig, series: Mapping[str, Series], cells: Sequence[GridCell]
) -> Sequence[tuple[str, str]]:
    """Return pairs of a name and a text: the series, the grid, and the size, memory and time of the run."""
    met = len(config.grid.perturbations) * sum(level > 0 for level in config.grid.levels)
    paces: dict[tuple[str, str, int], _Pace] = {}
    seconds = 0.0
    for cell in cells:
        kind = cell.dataset, cell.forecaster, cell.horizon
        if kind not in paces:
            paces[kind] = _pace(config, series[cell.dataset], cell)
        seconds += _seconds(config, series[cell.dataset], cell, paces[kind])
    at_once = min(len(cells), max(1, int((os.cpu_count() or 1) / config.grid.cpus)))
    memory = PROCESS_BYTES + COPIES * 4 * max(pace.parameters for pace in paces.values())
    return [
        *(
            (f"series {name}", f"{len(own.values):,} rows, columns {', '.join(own.columns)}")
            for name, own in series.items()
        ),
        ("grid", f"{len(cells)} cells, each met with at most {met} perturbations"),
        ("rows", f"at most {len(cells) * (1 + met):,} in cells.parquet"),
        ("memory", f"about {memory / 1e9:,.1f} GB for each of {at_once} tasks at a time"),
        ("time", f"roughly {seconds / at_once:,.0f} s on all of this machine's CPUs, and some 20 s to start"),
    ]


def _seconds(config: FaithfulnessConfig, series: Series, cell: GridCell, pace: _Pace) -> float:
    lookback, batch = config.lookback(cell.horizon), config.fit.batch
    train, test = (len(series.starts(part, lookback, cell.horizon)) / batch for part in ("train", "test"))
    levels = sum(level > 0 for level in config.grid.levels)
    attacks = levels * (ADVERSARIAL in config.grid.perturbations)
    searched = ASCENTS_FOR_THE_WORST * len(config.worst.norms) * config.worst.windows / batch
    others = [name for name in config.grid.perturbations if name != ADVERSARIAL]
    passes = levels * sum(PARAMETER_DRAWS if name == PARAMETER else 1 for name in others)
    judging = test * passes * pace.learn
    judging += (test * attacks + searched) * config.worst.steps * pace.climb
    if not FORECASTERS[cell.forecaster].trainable:
        return judging
    epochs = config.fit.to_settings(cell.forecaster, cell.training).epochs
    # Faithful training passes windows and perturbed windows.
    step = 2 * pace.learn + config.faithful.steps * pace.climb if cell.training in FAITHFUL_TRAININGS else pace.learn
    return judging + epochs * train * step


def _pace(config: FaithfulnessConfig, series: Series, cell: GridCell) -> _Pace:
    """Time a forecaster with random weights."""
    lookback = config.lookback(cell.horizon)
    starts = torch.from_numpy(series.starts("train", lookback, cell.horizon)[: config.fit.batch])
    given, target = Windows(torch.from_numpy(series.values), starts, lookback, cell.horizon).batch(
        torch.arange(len(starts))
    )
    shape = Shape(lookback, cell.horizon, len(series.columns))
    model = FORECASTERS[cell.forecaster].make(shape, config.timesieve.to_settings())

    weights = list(model.parameters())
    optimiser = torch.optim.Adam(weights, fused=True) if weights else None

    def learn() -> None:
        loss = error_of(model(given).values, target, config.fit.error).mean()
        if optimiser is not None:
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()

    def climb(steps: int) -> None:
        how = AscentSettings(steps=steps)
        with frozen(model):
            ascend(attack_objective(model, given, target, "error"), given, how, torch.Generator().manual_seed(0))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # What a step adds, without what an ascent sets up.
        a_step = max(0.0, _time(lambda: climb(6)) - _time(lambda: climb(1))) / 5
        return _Pace(_time(learn), a_step, sum(p.numel() for p in weights))
    finally:
        torch.set_num_threads(threads)


def _time(call: Callable[[], None]) -> float:
    """Return the seconds of a call, the faster of two after one that warms up."""
    found = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found[1:])
