"""Spreads, differences, intervals and verdicts, from measurements made by hand."""

import numpy as np
import pytest
from scipy import stats

from stratoscope.forecasting import (
    Measurement,
    deviation_ratios,
    differences,
    ratio_verdicts,
    reference_ratios,
    spreads,
    verdicts,
)
from stratoscope.forecasting.comparison import (
    deviation_interval,
    deviation_ratio_interval,
    mean_interval,
    ratio_interval,
)


def measurement(training: str, seed: int, error: float, perturbation: str = "none", level: float = 0.0) -> Measurement:
    return Measurement("waves", "linear", training, seed, 8, perturbation, level, error, error**2, 0.1, 1.0)


PLAIN = {1: 0.50, 2: 0.60, 3: 0.40}
FAITHFUL = {1: 0.50, 2: 0.52, 3: 0.50}
CLEAN = [
    *(measurement("plain", seed, error) for seed, error in PLAIN.items()),
    *(measurement("faithful", seed, error) for seed, error in FAITHFUL.items()),
]


def test_a_spread_is_over_seeds_and_the_preference_is_against_the_first() -> None:
    by_key = {(s.training, s.metric): s for s in spreads(CLEAN, [1, 2, 3])}
    plain, faithful = by_key["plain", "mae"], by_key["faithful", "mae"]
    assert (plain.seeds, plain.mean, plain.range) == (3, pytest.approx(0.5), pytest.approx(0.2))
    assert plain.deviation == pytest.approx(0.1)
    assert plain.deviation_low < plain.deviation < plain.deviation_high
    assert plain.preference is None
    # Seed 2 has a fifth of the plain change, seed 3 none of it.
    assert faithful.preference == pytest.approx(90)


def test_one_seed_has_no_spread() -> None:
    (spread, _) = spreads(CLEAN[:1], [1])
    assert (spread.deviation, spread.deviation_low, spread.deviation_high) == (None, None, None)
    assert "a single seed shows no spread" in verdict(CLEAN[:1], [1])


def test_a_difference_is_paired_by_seed() -> None:
    (difference,) = [d for d in differences(CLEAN[:5]) if d.metric == "mae"]
    assert (difference.training, difference.other, difference.seeds) == ("faithful", "plain", 2)
    assert difference.difference == pytest.approx((0.0 - 0.08) / 2)
    assert difference.ci_low < difference.difference < difference.ci_high


def test_a_rise_is_relative_to_the_clean_error() -> None:
    noisy = [
        *(measurement("plain", seed, error + 0.2, "gaussian", 0.1) for seed, error in PLAIN.items()),
        *(measurement("faithful", seed, error + 0.1, "gaussian", 0.1) for seed, error in FAITHFUL.items()),
    ]
    rows = differences([*CLEAN, *noisy])
    by_key = {(d.perturbation, d.metric): d for d in rows}
    assert by_key["gaussian", "mae_rise"].difference == pytest.approx(-0.1)
    assert {metric for perturbation, metric in by_key if perturbation == "none"} == {"mae", "mse"}
    assert {metric for perturbation, metric in by_key if perturbation != "none"} == {
        "mae",
        "mse",
        "mae_rise",
        "mse_rise",
        "moved",
    }


def test_trainings_without_a_common_seed_have_no_difference() -> None:
    assert differences([CLEAN[0], CLEAN[4]]) == []


def verdict(measurements: list[Measurement], seeds: list[int]) -> str:
    (text,) = verdicts(measurements, spreads(measurements, seeds), max_spread=0.05, max_degradation=0.1)
    return text


def test_a_verdict_states_what_a_forecaster_survives() -> None:
    stable = [measurement("plain", seed, 0.5) for seed in (1, 2)]
    assert verdict(stable, [1, 2]) == (
        "linear, plain, waves, horizon 8: survives another seed (squared error varies by 0.00%, 0.00% to 0.00%, over 2 "
        "seeds); was not perturbed."
    )
    noisy = [
        *(measurement("plain", seed, 0.53, "gaussian", 0.1) for seed in (1, 2)),
        *(measurement("plain", seed, 0.6, "gaussian", 0.2) for seed in (1, 2)),
    ]
    assert (
        "; survives gaussian 0.1 (+6.0%, +6.0% to +6.0%); does not survive gaussian 0.2 (+20.0%, +20.0% to +20.0%)."
        in verdict([*stable, *noisy], [1, 2])
    )
    assert "does not survive another seed" in verdict(CLEAN[:3], [1, 2, 3])


def test_a_perturbed_forecast_without_clean_error_does_not_survive() -> None:
    perfect = [measurement("plain", 1, 0.0), measurement("plain", 1, 0.1, "missing", 0.1)]
    assert "does not survive missing 0.1" in verdict(perfect, [1])


def with_spread(share: float) -> list[Measurement]:
    """Return three seeds whose squared error has this standard deviation relative to its mean."""
    return [measurement("plain", seed, (1 + (seed - 2) * share) ** 0.5) for seed in (1, 2, 3)]


@pytest.mark.parametrize("share", [0.0453, 0.0558])
def test_a_spread_whose_interval_contains_the_limit_is_undecided(share: float) -> None:
    text = verdict(with_spread(share), [1, 2, 3])
    assert f"undecided whether it survives another seed (squared error varies by {share:.2%}, " in text


@pytest.mark.parametrize(("share", "expected"), [(0.0075, "survives another"), (0.11, "does not survive another")])
def test_a_spread_whose_interval_lies_on_one_side_is_decided(share: float, expected: str) -> None:
    assert expected in verdict(with_spread(share), [1, 2, 3])


def test_a_growth_whose_interval_contains_the_limit_is_undecided() -> None:
    clean = [measurement("plain", seed, 0.5) for seed in (1, 2, 3)]
    noisy = [
        measurement("plain", seed, 0.5 * (1 + g), "gaussian", 0.1) for seed, g in ((1, 0.05), (2, 0.09), (3, 0.13))
    ]
    assert "undecided whether it survives gaussian 0.1 (+9.0%, -0.9% to +18.9%)" in verdict([*clean, *noisy], [1, 2, 3])
    single = [clean[0], noisy[0]]
    assert "undecided whether it survives gaussian 0.1 (+5.0%, one seed)" in verdict(single, [1])


def test_errors_that_do_not_fit_the_scale_are_questioned() -> None:
    wild = [measurement("plain", seed, 664.2 + seed) for seed in (1, 2)]
    (text,) = verdicts(
        wild, spreads(wild, [1, 2]), max_spread=0.05, max_degradation=0.1, naive_errors={"waves": 439_000.0}
    )
    assert "questioned: its squared error is 443,157 in standard units" in text
    assert "where a forecast of the training mean has 4.39e+05" in text
    assert "survive" not in text


def test_the_interval_of_a_ratio_contains_what_students_test_of_pairs_does_not_reject() -> None:
    generator = np.random.default_rng(0)
    bases = 1 + 0.1 * generator.normal(size=6)
    values = 1.2 * bases + 0.05 * generator.normal(size=6)
    low, high = ratio_interval(values, bases)
    for bound in (low, high):
        # At a bound of the interval, one end of Student's interval of the pairs is 0.
        assert min(abs(end) for end in mean_interval(values - bound * bases)) == pytest.approx(0, abs=1e-9)
    assert low < values.mean() / bases.mean() < high
    assert ratio_interval(values, np.array([1.0, -1.0, 2.0, -2.0, 1.0, -1.0])) == (-np.inf, np.inf)


def test_intervals_match_tables_of_students_and_the_chi_square_distribution() -> None:
    # With 4 degrees of freedom: 2.776, and .484 and 11.143.
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    deviation = 2.5**0.5
    half = 2.776 * deviation / 5**0.5
    assert mean_interval(values) == pytest.approx((3 - half, 3 + half), rel=1e-3)
    expected = deviation * (4 / 11.143) ** 0.5, deviation * (4 / 0.484) ** 0.5
    assert deviation_interval(deviation, 5) == pytest.approx(expected, rel=1e-3)
    assert mean_interval(values[:1]) == deviation_interval(None, 1) == (None, None)


def paired_errors(generator: np.random.Generator, number: int, deviation: float, correlation: float) -> np.ndarray:
    """Return two correlated normal samples, shape (2, number), of deviations `deviation` and 1."""
    covariance = [[deviation**2, correlation * deviation], [correlation * deviation, 1.0]]
    return generator.multivariate_normal([5.0, 5.0], covariance, number).T


def interval_of(errors: np.ndarray) -> tuple[float, float]:
    deviations = errors.std(axis=1, ddof=1)
    correlation = float(np.corrcoef(errors)[0, 1])
    low, high = deviation_ratio_interval(float(deviations[0] / deviations[1]), correlation, errors.shape[1])
    assert low is not None
    assert high is not None
    return low, high


@pytest.mark.parametrize("correlation", [0.0, 0.7, -0.5])
def test_limits_of_a_ratio_of_deviations_are_where_the_test_of_pitman_and_morgan_rejects(correlation: float) -> None:
    errors = paired_errors(np.random.default_rng(0), 8, 0.4, correlation)
    for limit in interval_of(errors):
        scaled = errors[0] + limit * errors[1], errors[0] - limit * errors[1]
        assert stats.pearsonr(*scaled).pvalue == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(("ratio", "correlation"), [(1.0, 0.0), (0.25, 0.0), (0.5, 0.8)])
def test_intervals_of_ratios_of_deviations_cover_95_percent(ratio: float, correlation: float) -> None:
    generator = np.random.default_rng(1)
    intervals = [interval_of(paired_errors(generator, 10, ratio, correlation)) for _ in range(2000)]
    covered = np.mean([low < ratio < high for low, high in intervals])
    assert 0.935 < covered < 0.965


def test_a_ratio_of_deviations_is_of_common_seeds() -> None:
    more = [measurement("plain", 4, 0.9), measurement("faithful", 5, 0.1)]
    rows = deviation_ratios([*CLEAN, *more, measurement("plain", 1, 9.0, "gaussian", 0.1)])
    assert [(r.training, r.other, r.metric, r.seeds) for r in rows] == [
        ("faithful", "plain", "mae", 3),
        ("faithful", "plain", "mse", 3),
    ]
    expected = np.std(list(FAITHFUL.values())) / np.std(list(PLAIN.values()))
    assert rows[0].ratio == pytest.approx(expected)
    assert rows[0].ci_low < rows[0].ratio < rows[0].ci_high


def test_a_ratio_has_no_interval_where_seeds_are_too_few_or_do_not_matter() -> None:
    two = [m for m in CLEAN if m.seed < 3]
    assert [(r.ci_low, r.ci_high) for r in deviation_ratios(two)] == [(None, None)] * 2
    same = [measurement("plain", seed, 0.5) for seed in (1, 2, 3)]
    (row, _) = deviation_ratios([*same, *CLEAN[3:]])
    assert (row.ratio, row.correlation, row.ci_low, row.ci_high) == (None, None, None, None)
    # A training that removes all of the deviation has a ratio, but no interval.
    (row, _) = deviation_ratios([*CLEAN[:3], *(measurement("faithful", seed, 0.5) for seed in (1, 2, 3))])
    assert (row.ratio, row.ci_low) == (0.0, None)
    assert deviation_ratios([CLEAN[0], CLEAN[4]]) == []


def with_trainings(**deviations: float) -> list[Measurement]:
    """Measurements of ten seeds, whose squared error has these deviations by training, around 1."""
    generator = np.random.default_rng(2)
    return [
        measurement(training, seed, float(1 + deviation * z) ** 0.5)
        for training, deviation in deviations.items()
        for seed, z in enumerate(stats.zscore(generator.standard_normal(10), ddof=1))
    ]


def test_longer_training_is_the_reference_where_there_is_one() -> None:
    cells = with_trainings(plain=0.1, longer=0.1, distilled=0.09, faithful=0.01)
    ratios = deviation_ratios(cells)
    assert {(r.training, r.other) for r in reference_ratios(ratios)} == {
        ("distilled", "longer"),
        ("faithful", "longer"),
    }
    distilled, faithful = ratio_verdicts(ratios, differences(cells))
    assert "not shown to differ" in distilled
    assert faithful.startswith(
        "linear, faithful against longer, waves, horizon 8: another seed moves the squared error 0.10 times as much ("
    )
    assert ", 10 seeds), less; the squared error changes by " in faithful
    (without,) = reference_ratios(deviation_ratios(with_trainings(plain=0.1, faithful=0.1)))
    assert (without.training, without.other) == ("faithful", "plain")
