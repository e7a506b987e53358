"""Verdicts in words: whether forecasters survive another seed and perturbations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from stratoscope.forecasting.comparison import DeviationRatio, Difference, Spread, ratio_interval
from stratoscope.forecasting.measurements import NONE, Measurement
from stratoscope.forecasting.options import Training

Outcome = Literal["survives", "undecided", "does not survive"]
REFERENCES: tuple[Training, ...] = ("longer", "plain")
"""Reference trainings; the spread of other trainings is compared with the first of these that a forecaster has."""
LARGE_ERROR = 100.0
"""Squared error in standard units above which a result is questioned (ours): ten standard deviations per point."""


@dataclass(frozen=True)
class PerturbationOutcome:
    """What a perturbation at one level does to the absolute error of a forecaster."""

    perturbation: str
    """Name of the perturbation."""
    level: float
    """Level of the perturbation."""
    outcome: Outcome
    """Whether the forecaster survives."""
    seeds: int
    """Number of seeds."""
    growth: float | None
    """Relative growth of the error, of means over seeds; null where the unperturbed error is 0 and this one is not."""
    low: float | None
    """Lower end of the 95 % interval of the growth over seeds; null for one seed, and where it is not finite."""
    high: float | None
    """Upper end of that interval."""

    @property
    def text(self) -> str:
        """Growth with its interval in words."""
        if self.growth is None:
            return "from an error of 0"
        if self.seeds == 1:
            return f"{self.growth:+.1%}, one seed"
        if self.low is None or self.high is None:
            return f"{self.growth:+.1%}, no finite interval"
        return f"{self.growth:+.1%}, {self.low:+.1%} to {self.high:+.1%}"


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
        if is_questioned(spread):
            yield f"{name}: {_question(spread, (naive_errors or {}).get(spread.dataset))}."
        else:
            yield f"{name}: {_seed_verdict(spread, max_spread)}; {_perturbation_verdict(group, max_degradation)}."


def reference_ratios(ratios: Sequence[DeviationRatio]) -> list[DeviationRatio]:
    """Return the ratios of the squared error's deviations between each further training and the reference.

    The reference is longer plain training, since more epochs alone change the deviation, or plain training where there
    is none.
    """
    longer = {_place(ratio) for ratio in ratios if REFERENCES[0] in (ratio.training, ratio.other)}
    return [
        ratio
        for ratio in ratios
        if ratio.metric == "mse"
        and ratio.other == REFERENCES[0 if _place(ratio) in longer else 1]
        and ratio.training not in REFERENCES
    ]


def ratio_verdicts(ratios: Sequence[DeviationRatio], differences: Sequence[Difference]) -> Iterator[str]:
    """Yield a sentence for each further training: its deviation over seeds and its error, relative to the reference.

    Args:
        ratios: ratios of deviations of all pairs of trainings.
        differences: differences of all pairs of trainings.
    """
    clean = {(*_place(d), d.training, d.other): d for d in differences if (d.perturbation, d.metric) == (NONE, "mse")}
    for ratio in reference_ratios(ratios):
        if ratio.ratio is not None:
            name = (
                f"{ratio.forecaster}, {ratio.training} against {ratio.other}, {ratio.dataset}, horizon {ratio.horizon}"
            )
            change = clean[*_place(ratio), ratio.training, ratio.other]
            yield f"{name}: {_ratio_text(ratio)}; the squared error changes by {_change_text(change)}."


def _place(result: DeviationRatio | Difference) -> tuple[str, str, int]:
    return result.dataset, result.forecaster, result.horizon


def _ratio_text(ratio: DeviationRatio) -> str:
    if ratio.ci_low is None or ratio.ci_high is None:
        return f"another seed moves the squared error {ratio.ratio:.2f} times as much, without an interval"
    decision = "less" if ratio.ci_high < 1 else "more" if ratio.ci_low > 1 else "not shown to differ"
    return (
        f"another seed moves the squared error {ratio.ratio:.2f} times as much ({ratio.ci_low:.2f} to "
        f"{ratio.ci_high:.2f}, {ratio.seeds} seeds), {decision}"
    )


def _change_text(change: Difference) -> str:
    base = change.other_mean or 1.0
    text = f"{change.difference / base:+.1%}"
    if change.ci_low is None or change.ci_high is None:
        return text
    return f"{text} ({change.ci_low / base:+.1%} to {change.ci_high / base:+.1%})"


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


def is_questioned(spread: Spread) -> bool:
    """Return whether a squared error is so large that the scale of its series is questioned."""
    return spread.mean > LARGE_ERROR


def seed_outcome(spread: Spread, max_spread: float) -> Outcome | None:
    """Return whether a forecaster survives another seed; None for a single seed.

    Args:
        spread: spread of its squared error over seeds.
        max_spread: largest standard deviation, relative to the mean, that counts as surviving.
    """
    if spread.deviation_low is None or spread.deviation_high is None:
        return None
    mean = spread.mean or 1.0
    return outcome(spread.deviation_low / mean, spread.deviation_high / mean, max_spread)


def perturbation_outcomes(measurements: Sequence[Measurement], max_degradation: float) -> list[PerturbationOutcome]:
    """Return the outcome of each perturbation and level.

    Args:
        measurements: measurements of one forecaster, training, series and horizon.
        max_degradation: largest growth of the absolute error that counts as surviving.
    """
    clean = {m.seed: m.mae for m in measurements if m.perturbation == NONE}
    perturbed = sorted((m for m in measurements if m.perturbation != NONE), key=_perturbation)
    return [
        _perturbation_outcome(list(group), clean, max_degradation) for _, group in groupby(perturbed, _perturbation)
    ]


def _seed_verdict(spread: Spread, max_spread: float) -> str:
    verdict = seed_outcome(spread, max_spread)
    if verdict is None or spread.deviation is None or spread.deviation_low is None or spread.deviation_high is None:
        return "a single seed shows no spread"
    mean = spread.mean or 1.0
    share, low, high = (value / mean for value in (spread.deviation, spread.deviation_low, spread.deviation_high))
    return (
        f"{_with_object(verdict, 'another seed')} (squared error varies by {share:.2%}, {low:.2%} to {high:.2%}, "
        f"over {spread.seeds} seeds)"
    )


def _with_object(verdict: Outcome, what: str) -> str:
    return f"undecided whether it survives {what}" if verdict == "undecided" else f"{verdict} {what}"


def _perturbation_verdict(measurements: Sequence[Measurement], max_degradation: float) -> str:
    groups: dict[Outcome, list[str]] = {"survives": [], "undecided": [], "does not survive": []}
    for each in perturbation_outcomes(measurements, max_degradation):
        groups[each.outcome].append(f"{each.perturbation} {each.level:g} ({each.text})")
    parts = [_with_object(verdict, ", ".join(texts)) for verdict, texts in groups.items() if texts]
    return "; ".join(parts) or "was not perturbed"


def _perturbation_outcome(
    group: Sequence[Measurement], clean: Mapping[int, float], limit: float
) -> PerturbationOutcome:
    """Return the outcome of a perturbation from its measurements, one for each seed."""
    errors = np.array([m.mae for m in group])
    clean_errors = np.array([clean[m.seed] for m in group])
    place = group[0].perturbation, group[0].level
    if not clean_errors.any():
        if errors.any():
            return PerturbationOutcome(*place, "does not survive", len(group), None, None, None)
        return PerturbationOutcome(*place, "survives", len(group), 0.0, 0.0, 0.0)
    growth = float(errors.mean() / clean_errors.mean() - 1)
    if len(group) == 1:
        return PerturbationOutcome(*place, "undecided", 1, growth, None, None)
    low, high = (bound - 1 for bound in ratio_interval(errors, clean_errors))
    ends = (low, high) if np.isfinite([low, high]).all() else (None, None)
    return PerturbationOutcome(*place, outcome(low, high, limit), len(group), growth, *ends)


def _perturbation(measurement: Measurement) -> tuple[str, float]:
    return measurement.perturbation, measurement.level
