"""Comparison of forecasters: spread over seeds, and differences between trainings."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stratoscope.forecasting.faithful import preference
from stratoscope.forecasting.measurements import NONE, Measurement
from stratoscope.forecasting.options import Training

METRICS = ("mae", "mse")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Spread of a forecaster's error over seeds, without a perturbation."""

    dataset: str
    """Name of the series."""
    forecaster: str
    """Name of the forecaster."""
    training: Training
    """How the forecaster was trained."""
    horizon: int
    """Number of points forecast."""
    metric: str
    """Name of the error."""
    seeds: int
    """Number of seeds."""
    mean: float
    """Mean over seeds."""
    deviation: float | None
    """Standard deviation over seeds; null for one seed."""
    deviation_low: float | None
    """Lower end of the 95 % interval of the deviation, which assumes normally distributed errors; null for one seed."""
    deviation_high: float | None
    """Upper end of that interval; null for one seed."""
    range: float
    """Difference between the largest and the smallest value."""
    preference: float | None
    """Median over seeds of the paper's preference, in percent; null for plain training, and where the error of plain
    training does not change with the seed."""


@dataclass(frozen=True)
class Difference:
    """Difference between two trainings of a forecaster under one perturbation, paired by seed."""

    dataset: str
    """Name of the series."""
    forecaster: str
    """Name of the forecaster."""
    horizon: int
    """Number of points forecast."""
    perturbation: str
    """Name of the perturbation."""
    level: float
    """Level of the perturbation; 0 without one."""
    metric: str
    """Name of the measure. mae_rise and mse_rise are what the perturbation adds to the clean error, so that a smaller
    clean error does not count as robustness."""
    training: Training
    """The training."""
    other: Training
    """The training it is compared with."""
    seeds: int
    """Number of seeds that both have."""
    mean: float
    """Mean of the training over seeds."""
    other_mean: float
    """Mean of the other training over seeds."""
    difference: float
    """Mean of training - other over seeds."""
    ci_low: float | None
    """Lower end of Student's 95 % interval of the difference over seeds; null for one seed."""
    ci_high: float | None
    """Upper end of that interval; null for one seed."""


@dataclass(frozen=True)
class DeviationRatio:
    """How much the error of a forecaster varies with the seed after one training, relative to another."""

    dataset: str
    """Name of the series."""
    forecaster: str
    """Name of the forecaster."""
    horizon: int
    """Number of points forecast."""
    metric: str
    """Name of the error, without a perturbation."""
    training: Training
    """The training."""
    other: Training
    """The training it is compared with."""
    seeds: int
    """Number of seeds that both have."""
    deviation: float
    """Standard deviation of the training's error over these seeds."""
    other_deviation: float
    """Standard deviation of the other training's error."""
    correlation: float | None
    """Correlation of the two errors over seeds; null where an error does not vary."""
    ratio: float | None
    """deviation / other_deviation; null where the other does not vary."""
    ci_low: float | None
    """Lower end of the 95 % interval of the ratio, which assumes that the errors of both trainings are jointly normal
    over seeds; null for fewer than three seeds, and where an error does not vary."""
    ci_high: float | None
    """Upper end of that interval."""


class _Condition(NamedTuple):
    dataset: str
    forecaster: str
    horizon: int
    perturbation: str
    level: float


def spreads(measurements: Sequence[Measurement], seeds: Sequence[int]) -> list[Spread]:
    """Return the spread over seeds of each forecaster, training and horizon without a perturbation, by error.

    Args:
        measurements: measurements of all fitted forecasters.
        seeds: seeds in order; the first is the base of the preference.
    """
    by_seed: dict[tuple[str, str, Training, int], dict[int, Measurement]] = {}
    for m in measurements:
        if m.perturbation == NONE:
            by_seed.setdefault((m.dataset, m.forecaster, m.training, m.horizon), {})[m.seed] = m
    rows = []
    for (dataset, forecaster, training, horizon), cells in by_seed.items():
        plain = by_seed.get((dataset, forecaster, "plain", horizon), {})
        for metric in METRICS:
            values = np.array([getattr(cells[seed], metric) for seed in seeds if seed in cells])
            preferences = _preferences(cells, plain, seeds, metric) if training != "plain" else []
            deviation = float(values.std(ddof=1)) if len(values) > 1 else None
            low, high = deviation_interval(deviation, len(values))
            rows.append(
                Spread(
                    dataset=dataset,
                    forecaster=forecaster,
                    training=training,
                    horizon=horizon,
                    metric=metric,
                    seeds=len(values),
                    mean=float(values.mean()),
                    deviation=deviation,
                    deviation_low=low,
                    deviation_high=high,
                    range=float(np.ptp(values)),
                    preference=float(np.median(preferences)) if preferences else None,
                )
            )
    return rows


def _preferences(
    cells: dict[int, Measurement], plain: dict[int, Measurement], seeds: Sequence[int], metric: str
) -> list[float]:
    """Return the preference of each seed but the first against the first."""
    base, *others = seeds
    if base not in cells or base not in plain:
        return []
    values = [
        preference(*(getattr(m, metric) for m in (cells[base], cells[seed], plain[base], plain[seed])))
        for seed in others
        if seed in cells and seed in plain
    ]
    return [value for value in values if value is not None]


def differences(measurements: Sequence[Measurement]) -> list[Difference]:
    """Return the differences of each pair of trainings, by condition and measure, paired by seed."""
    clean = {_cell(m): m for m in measurements if m.perturbation == NONE}
    by_training: dict[Training, dict[_Condition, dict[int, dict[str, float]]]] = {}
    for m in measurements:
        condition = _Condition(m.dataset, m.forecaster, m.horizon, m.perturbation, m.level)
        by_training.setdefault(m.training, {}).setdefault(condition, {})[m.seed] = _measures(m, clean[_cell(m)])
    return [
        _difference(condition, metric, (training, other), (by_seed, other_by_seed))
        for other, training in combinations(by_training, 2)
        for condition, by_seed in by_training[training].items()
        if (other_by_seed := by_training[other].get(condition, {})).keys() & by_seed.keys()
        for metric in next(iter(by_seed.values()))
    ]


def _cell(measurement: Measurement) -> tuple[str, str, Training, int, int]:
    m = measurement
    return m.dataset, m.forecaster, m.training, m.seed, m.horizon


def _measures(measurement: Measurement, clean: Measurement) -> dict[str, float]:
    """Return the measures of a cell under a perturbation; without one, the errors alone."""
    values = {metric: getattr(measurement, metric) for metric in METRICS}
    if measurement.perturbation == NONE:
        return values
    rises = {f"{metric}_rise": value - getattr(clean, metric) for metric, value in values.items()}
    return values | rises | {"moved": measurement.moved}


def _difference(
    condition: _Condition,
    metric: str,
    trainings: tuple[Training, Training],
    by_seed: tuple[dict[int, dict[str, float]], dict[int, dict[str, float]]],
) -> Difference:
    seeds = [seed for seed in by_seed[0] if seed in by_seed[1]]
    values, other_values = (np.array([cells[seed][metric] for seed in seeds]) for cells in by_seed)
    low, high = mean_interval(values - other_values)
    return Difference(
        **condition._asdict(),
        metric=metric,
        training=trainings[0],
        other=trainings[1],
        seeds=len(seeds),
        mean=float(values.mean()),
        other_mean=float(other_values.mean()),
        difference=float((values - other_values).mean()),
        ci_low=low,
        ci_high=high,
    )


def deviation_ratios(measurements: Sequence[Measurement]) -> list[DeviationRatio]:
    """Return the ratio of deviations over seeds for each pair of trainings, without a perturbation, by error."""
    by_training: dict[Training, dict[tuple[str, str, int], dict[int, Measurement]]] = {}
    for m in measurements:
        if m.perturbation == NONE:
            place = m.dataset, m.forecaster, m.horizon
            by_training.setdefault(m.training, {}).setdefault(place, {})[m.seed] = m
    return [
        _deviation_ratio(place, metric, (training, other), (by_seed, other_by_seed))
        for other, training in combinations(by_training, 2)
        for place, by_seed in by_training[training].items()
        if len((other_by_seed := by_training[other].get(place, {})).keys() & by_seed.keys()) > 1
        for metric in METRICS
    ]


def _deviation_ratio(
    place: tuple[str, str, int],
    metric: str,
    trainings: tuple[Training, Training],
    by_seed: tuple[dict[int, Measurement], dict[int, Measurement]],
) -> DeviationRatio:
    dataset, forecaster, horizon = place
    seeds = [seed for seed in by_seed[0] if seed in by_seed[1]]
    errors = np.array([[getattr(cells[seed], metric) for seed in seeds] for cells in by_seed])
    deviation, other_deviation = (float(value) for value in errors.std(axis=1, ddof=1))
    correlation = float(np.corrcoef(errors)[0, 1]) if deviation and other_deviation else None
    ratio = deviation / other_deviation if other_deviation else None
    low, high = (None, None) if ratio is None else deviation_ratio_interval(ratio, correlation, len(seeds))
    return DeviationRatio(
        dataset=dataset,
        forecaster=forecaster,
        horizon=horizon,
        metric=metric,
        training=trainings[0],
        other=trainings[1],
        seeds=len(seeds),
        deviation=deviation,
        other_deviation=other_deviation,
        correlation=correlation,
        ratio=ratio,
        ci_low=low,
        ci_high=high,
    )


def deviation_ratio_interval(ratio: float, correlation: float | None, number: int) -> tuple[float | None, float | None]:
    """Return the interval of the ratio of two standard deviations of paired samples.

    It consists of the ratios q that the test of Pitman and Morgan does not reject: the correlation of x + q * y and
    x - q * y is 0 exactly if q is the ratio of the deviations of x and y. It holds for jointly normal x and y.

    Args:
        ratio: ratio of the standard deviations of the samples.
        correlation: correlation of the samples; None where one does not vary, which gives (None, None).
        number: number of pairs; fewer than three give (None, None).

    Source: Pitman (1939), 'A note on normal correlation', Biometrika 31, equation for the limits.
    """
    if correlation is None or number < 3:
        return None, None
    t2 = float(stats.t.ppf((1 + CONFIDENCE) / 2, number - 2)) ** 2
    center = 1 + 2 * (1 - min(correlation**2, 1.0)) * t2 / (number - 2)
    root = (center**2 - 1) ** 0.5
    # center - root, without cancellation.
    return ratio * (center + root) ** -0.5, ratio * (center + root) ** 0.5


def mean_interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Return Student's interval of a mean; (None, None) for a single value."""
    if len(values) < 2:
        return None, None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return float(values.mean()) - half, float(values.mean()) + half


def ratio_interval(values: NDArray[np.float64], bases: NDArray[np.float64]) -> tuple[float, float]:
    """Return Fieller's 95 % interval of the ratio of two paired means (Fieller 1954).

    A limit lies above the interval exactly if Student's interval of the mean of values - limit * bases lies below 0.

    Args:
        values: numerators, shape (N,), N > 1.
        bases: denominators, shape (N,).

    Returns:
        (-inf, inf) where the mean of the bases cannot be told from 0.
    """
    t2 = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) ** 2 / len(values)
    covariance = np.cov(values, bases)
    a = bases.mean() ** 2 - t2 * covariance[1, 1]
    b = values.mean() * bases.mean() - t2 * covariance[0, 1]
    c = values.mean() ** 2 - t2 * covariance[0, 0]
    if a <= 0:
        return -np.inf, np.inf
    half = float(np.sqrt(max(b * b - a * c, 0.0)))
    return float((b - half) / a), float((b + half) / a)


def deviation_interval(deviation: float | None, number: int) -> tuple[float | None, float | None]:
    """Return the interval of the standard deviation of a normal distribution.

    Args:
        deviation: standard deviation of a sample; None for a sample of one, which gives (None, None).
        number: size of the sample.
    """
    if deviation is None:
        return None, None
    low, high = stats.chi2.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], number - 1)
    return deviation * ((number - 1) / high) ** 0.5, deviation * ((number - 1) / low) ** 0.5
