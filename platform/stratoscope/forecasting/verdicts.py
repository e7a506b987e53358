"""Verdicts in words: whether forecasters survive another seed and perturbations."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal

import numpy as np

from stratoscope.forecasting.comparison import Spread, ratio_interval
from stratoscope.forecasting.measurements import NONE, Measurement

Outcome = Literal["survives", "undecided", "does not survive"]
LARGE_ERROR = 100.0
"""Squared error in standard units above which a result is questioned (ours): ten standard deviations per point."""


def verdicts(
    measurements: Sequence[Measurement],
    spreads: Sequence[Spread],
    *,
    max_spread: float,
    max_degradation: float,
    naive_errors: Mapping[str, float] | None = None,
) -> Iterator[str]:
    """Yield a sentence for each forecaster, training and horizon.

    A forecaster survives if the whole 95 % interval lies within the limit, and does not if the whole interval lies
    above it. In between it is undecided.

    Args:
        measurements: measurements of all fitted forecasters.
        spreads: their spread over seeds.
        max_spread: largest standard deviation of the squared error over seeds, relative to its mean, that counts as
            surviving another seed.
        max_degradation: largest growth of the absolute error that counts as surviving a perturbation.
        naive_errors: squared error of a forecast of the training mean, by series.
    """
    for spread in spreads:
        if spread.metric != "mse":
            continue
        key = spread.dataset, spread.forecaster, spread.training, spread.horizon
        group = [m for m in measurements if (m.dataset, m.forecaster, m.training, m.horizon) == key]
        name = f"{spread.forecaster}, {spread.training}, {spread.dataset}, horizon {spread.horizon}"
        if spread.mean > LARGE_ERROR:
            yield f"{name}: {_question(spread, (naive_errors or {}).get(spread.dataset))}."
        else:
            yield f"{name}: {_seed_verdict(spread, max_spread)}; {_perturbation_verdict(group, max_degradation)}."


def outcome(low: float, high: float, limit: float) -> Outcome:
    """Return the outcome of an interval: undecided where it contains the limit."""
    if high <= limit:
        return "survives"
    return "does not survive" if low > limit else "undecided"


def _question(spread: Spread, naive: float | None) -> str:
    baseline = "" if naive is None else f", where a forecast of the training mean has {naive:,.3g}"
    return (
        f"questioned: its squared error is {spread.mean:,.0f} in standard units{baseline}; check the scale and the "
        "missing values of the series, and the learning rate, before reading anything into its results"
    )


def _seed_verdict(spread: Spread, max_spread: float) -> str:
    if spread.deviation is None or spread.deviation_low is None or spread.deviation_high is None:
        return "a single seed shows no spread"
    mean = spread.mean or 1.0
    share, low, high = (value / mean for value in (spread.deviation, spread.deviation_low, spread.deviation_high))
    verdict = _with_object(outcome(low, high, max_spread), "another seed")
    return f"{verdict} (squared error varies by {share:.2%}, {low:.2%} to {high:.2%}, over {spread.seeds} seeds)"


def _with_object(verdict: Outcome, what: str) -> str:
    return f"undecided whether it survives {what}" if verdict == "undecided" else f"{verdict} {what}"


def _perturbation_verdict(measurements: Sequence[Measurement], max_degradation: float) -> str:
    clean = {m.seed: m.mae for m in measurements if m.perturbation == NONE}
    groups: dict[Outcome, list[str]] = {"survives": [], "undecided": [], "does not survive": []}
    perturbed = sorted((m for m in measurements if m.perturbation != NONE), key=_perturbation)
    for (name, level), group in groupby(perturbed, key=_perturbation):
        verdict, growth = _growth(list(group), clean, max_degradation)
        groups[verdict].append(f"{name} {level:g} ({growth})")
    parts = [_with_object(verdict, ", ".join(texts)) for verdict, texts in groups.items() if texts]
    return "; ".join(parts) or "was not perturbed"


def _growth(group: Sequence[Measurement], clean: Mapping[int, float], limit: float) -> tuple[Outcome, str]:
    """Return the outcome of a perturbation, and the growth of the absolute error with its interval in words."""
    errors = np.array([m.mae for m in group])
    clean_errors = np.array([clean[m.seed] for m in group])
    if not clean_errors.any():
        return ("does not survive", "from an error of 0") if errors.any() else ("survives", "+0.0%")
    growth = float(errors.mean() / clean_errors.mean() - 1)
    if len(group) == 1:
        return "undecided", f"{growth:+.1%}, one seed"
    low, high = (bound - 1 for bound in ratio_interval(errors, clean_errors))
    bounds = f"{low:+.1%} to {high:+.1%}" if np.isfinite([low, high]).all() else "no finite interval"
    return outcome(low, high, limit), f"{growth:+.1%}, {bounds}"


def _perturbation(measurement: Measurement) -> tuple[str, float]:
    return measurement.perturbation, measurement.level
