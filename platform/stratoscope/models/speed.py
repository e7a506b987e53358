"""The speed of one model compared with another's, in paired runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

PAIRS = 5
"""Number of paired runs."""
TimedRun = Callable[[], float]
"""Runs a model once and returns the seconds that it took."""


@dataclass(frozen=True)
class SpeedComparison:
    """A measurement of two models: the medians of paired runs, and of their ratios."""

    what: str
    """Name of the measurement, such as forward pass, decoding, or memory of the weights."""
    unit: str
    """Unit of before and after."""
    before: float
    """Median of the first model, the original."""
    after: float
    """Median of the second model."""
    gain: float
    """Median ratio of a pair of runs, above 1 where the second model is better."""
    gain_low: float
    """Least ratio of a pair."""
    gain_high: float
    """Greatest ratio of a pair."""


def compare_runs(
    what: str, unit: str, runs: tuple[TimedRun, TimedRun], measure: Callable[[float], float]
) -> SpeedComparison:
    """Run two models in pairs, after one warm-up run of each; the models take turns in running first.

    Args:
        what: name of the measurement.
        unit: unit of the measured values.
        runs: a run of each model.
        measure: converts the seconds of a run into the unit.
    """
    for run in runs:
        run()
    seconds: list[Sequence[float]] = []
    for pair in range(PAIRS):
        order = (0, 1) if pair % 2 == 0 else (1, 0)
        by_model = {i: runs[i]() for i in order}
        seconds.append((by_model[0], by_model[1]))
    times = np.asarray(seconds)
    ratios = times[:, 0] / times[:, 1]
    before, after = np.median(times, axis=0)
    return SpeedComparison(
        what=what,
        unit=unit,
        before=measure(before),
        after=measure(after),
        gain=float(np.median(ratios)),
        gain_low=float(ratios.min()),
        gain_high=float(ratios.max()),
    )


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a run, including the time until the device has finished."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
