"""Verdicts in words: whether forecasters survive another seed and perturbations."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from stratoscope.forecasting.comparison import Spread
from stratoscope.forecasting.measurements import NONE, Measurement


def verdicts(
    measurements: Sequence[Measurement], spreads: Sequence[Spread], *, max_spread: float, max_degradation: float
) -> Iterator[str]:
    """Yield a sentence for each forecaster, training and horizon.

    Args:
        measurements: measurements of all fitted forecasters.
        spreads: their spread over seeds.
        max_spread: largest standard deviation of the squared error over seeds, relative to its mean, that counts as
            surviving another seed.
        max_degradation: largest growth of the absolute error that counts as surviving a perturbation.
    """
    for spread in spreads:
        if spread.metric != "mse":
            continue
        key = spread.dataset, spread.forecaster, spread.training, spread.horizon
        group = [m for m in measurements if (m.dataset, m.forecaster, m.training, m.horizon) == key]
        name = f"{spread.forecaster}, {spread.training}, {spread.dataset}, horizon {spread.horizon}"
        yield f"{name}: {_seed_verdict(spread, max_spread)}; {_perturbation_verdict(group, max_degradation)}."


def _seed_verdict(spread: Spread, max_spread: float) -> str:
    if spread.deviation is None:
        return "a single seed shows no spread"
    share = spread.deviation / spread.mean if spread.mean else 0.0
    verdict = "survives" if share <= max_spread else "does not survive"
    return f"{verdict} another seed (squared error varies by {share:.2%} over {spread.seeds} seeds)"


def _perturbation_verdict(measurements: Sequence[Measurement], max_degradation: float) -> str:
    clean = np.mean([m.mae for m in measurements if m.perturbation == NONE])
    survived: list[str] = []
    failed: list[str] = []
    perturbed = sorted((m for m in measurements if m.perturbation != NONE), key=_perturbation)
    for (name, level), group in groupby(perturbed, key=_perturbation):
        growth = float(np.mean([m.mae for m in group]) / clean - 1) if clean else math.inf
        (survived if growth <= max_degradation else failed).append(f"{name} {level:g} ({growth:+.1%})")
    parts = [f"survives {', '.join(survived)}"] if survived else []
    parts += [f"does not survive {', '.join(failed)}"] if failed else []
    return "; ".join(parts) or "was not perturbed"


def _perturbation(measurement: Measurement) -> tuple[str, float]:
    return measurement.perturbation, measurement.level
