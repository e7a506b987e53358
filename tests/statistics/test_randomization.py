"""Randomisation tests: exact on small cases, calibrated under the null hypothesis, adjusted for covariates."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ttest_1samp, ttest_ind

from stratoscope.statistics import max_t

NONE = np.zeros((0, 0))


def none(units: int) -> np.ndarray:
    return np.zeros((units, 0))


def test_statistics_are_those_of_students_tests() -> None:
    generator = np.random.default_rng(0)
    y, group = generator.normal(0.3, 1, (40, 3)), np.repeat([0.0, 1.0], 20)
    paired = max_t(y, np.ones(40), none(40), "paired", draws=99)
    np.testing.assert_allclose(paired.statistic, ttest_1samp(y, 0).statistic)
    np.testing.assert_allclose(paired.effect, y.mean(axis=0))
    grouped = max_t(y, group, none(40), "grouped", draws=99)
    np.testing.assert_allclose(grouped.statistic, ttest_ind(y[20:], y[:20]).statistic)
    np.testing.assert_allclose(grouped.effect, y[20:].mean(axis=0) - y[:20].mean(axis=0))


def test_p_values_are_those_of_all_sign_flips() -> None:
    y = np.array([[0.3], [1.1], [-0.2], [0.8], [0.5], [0.9], [0.1], [0.4]])
    flips = np.array(list(product([-1.0, 1.0], repeat=len(y))))
    exact = (np.abs(flips @ y) >= abs(y.sum()) - 1e-12).mean()
    assert max_t(y, np.ones(8), none(8), "paired", draws=20_000).p_value[0] == pytest.approx(exact, abs=0.005)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_scale_and_sign_change_no_p_value_and_more_effects_never_lower_one(seed: int, effects: int) -> None:
    y = np.random.default_rng(seed).normal(0.2, 1, (25, effects))
    scaled = y * np.random.default_rng(seed + 1).uniform(-5, 5, effects)
    whole = max_t(y, np.ones(25), none(25), "paired", draws=499)
    np.testing.assert_allclose(max_t(scaled, np.ones(25), none(25), "paired", draws=499).p_value, whole.p_value)
    first = max_t(y[:, :1], np.ones(25), none(25), "paired", draws=499)
    assert whole.p_value[0] >= first.p_value[0] - 1e-12
    assert whole.critical >= first.critical - 1e-12


@pytest.mark.parametrize("shift", [0.0, 1.5])
@pytest.mark.parametrize("design", ["paired", "grouped"])
def test_the_family_wise_error_rate_holds_under_the_null_hypothesis(design: str, shift: float) -> None:
    """In 400 draws of 12 correlated effects; more than the 99.9 % quantile of the binomial would be too many.

    With a shift the covariate goes along with what is tested, and explains all of it.
    """
    units, found = 60, 0
    for seed in range(400):
        generator = np.random.default_rng(seed)
        y = generator.standard_t(4, (units, 12)) + generator.normal(size=(units, 1))
        length = generator.normal(size=(units, 1))
        x = np.ones(units) if design == "paired" else generator.permutation(np.arange(units) % 2).astype(float)
        length = length + shift * x[:, None]
        outcome = max_t(y + 2 * length, x, length, design, draws=199, seed=seed)
        found += bool((outcome.p_value <= 0.05).any())
    assert found <= binom.ppf(0.999, 400, 0.05)


@pytest.mark.parametrize("design", ["paired", "grouped"])
def test_an_effect_of_the_covariate_alone_is_found_without_adjustment_and_gone_with_it(design: str) -> None:
    generator = np.random.default_rng(1)
    x = np.ones(200) if design == "paired" else (np.arange(200) % 2).astype(float)
    length = generator.normal(1.0, 1.0, (200, 1)) * (1 if design == "paired" else x[:, None])
    y = 0.7 * length + generator.normal(0, 0.5, (200, 4))
    assert (max_t(y, x, none(200), design, draws=999).p_value <= 0.001).all()
    assert (max_t(y, x, length, design, draws=999).p_value > 0.05).all()


def test_an_effect_beside_the_covariate_survives_the_adjustment() -> None:
    generator = np.random.default_rng(2)
    length = generator.normal(1.0, 1.0, (200, 1))
    y = 0.7 * length + np.array([0.0, 0.4, 0.0]) + generator.normal(0, 0.5, (200, 3))
    adjusted = max_t(y, np.ones(200), length, "paired", draws=999)
    assert adjusted.p_value[1] <= 0.001
    assert (adjusted.p_value[[0, 2]] > 0.05).all()
    assert adjusted.low[1] < 0.4 < adjusted.high[1]


def test_simultaneous_intervals_cover_all_effects_at_once() -> None:
    truth, covered = np.linspace(-1, 1, 8), 0
    for seed in range(200):
        y = truth + np.random.default_rng(seed).normal(0, 1, (50, 8))
        outcome = max_t(y, np.ones(50), none(50), "paired", draws=299, seed=seed)
        covered += bool(((outcome.low <= truth) & (truth <= outcome.high)).all())
    assert covered >= binom.ppf(0.001, 200, 0.95)


def test_what_does_not_vary_is_no_effect_and_too_few_units_are_refused() -> None:
    y = np.column_stack([np.zeros(20), np.random.default_rng(0).normal(3, 1, 20)])
    outcome = max_t(y, np.ones(20), none(20), "paired", draws=99)
    assert outcome.statistic[0] == 0
    assert outcome.p_value[0] == 1
    assert outcome.p_value[1] == pytest.approx(0.01)
    with pytest.raises(ValueError, match="too few"):
        max_t(y[:3], np.ones(3), np.random.default_rng(0).normal(size=(3, 1)), "paired")
    explained = max_t(y, np.ones(20), np.ones((20, 1)), "paired")
    assert np.isnan(explained.effect).all()
    assert (explained.p_value == 1).all()


@pytest.mark.parametrize("constant", [np.log(2), 1e-3, 1e9])
def test_a_column_that_is_constant_changes_no_other_p_value(constant: float) -> None:
    """What the constant and the covariates leave of such a column is rounding, which must not be studentised."""
    for seed in range(10):
        generator = np.random.default_rng(seed)
        group = (generator.random(97) < 0.6).astype(float)
        y, length = generator.normal(0.4, 1, (97, 3)) * group[:, None], generator.normal(size=(97, 1))
        alone = max_t(y, group, length, "grouped", draws=199)
        joint = max_t(np.column_stack([y, np.full(97, constant)]), group, length, "grouped", draws=199)
        np.testing.assert_array_equal(joint.p_value[:3], alone.p_value)
        assert joint.critical == pytest.approx(alone.critical)
        assert (joint.effect[3], joint.statistic[3], joint.p_value[3]) == (0, 0, 1)


def test_an_effect_without_any_variation_has_the_least_p_value_as_its_interval_says() -> None:
    same = max_t(np.full((20, 1), 0.5), np.ones(20), none(20), "paired", draws=999)
    assert same.p_value[0] == same.least_p == 0.001
    assert same.low[0] == same.high[0] == 0.5
    group = np.repeat([0.0, 1.0], 15)
    apart = max_t(0.3 + group[:, None], group, none(30), "grouped", draws=999)
    assert apart.p_value[0] == 0.001
    assert np.isfinite(apart.statistic[0])
    few = max_t(np.full((5, 1), 0.1), np.ones(5), none(5), "paired", draws=9999)
    assert few.p_value[0] == pytest.approx(2 / 2**5, abs=0.01), "all draws that repeat the effect count"


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_spread_is_the_standard_deviation_within_groups(share: float) -> None:
    group = (np.arange(4000) < share * 4000).astype(float)
    y = np.random.default_rng(0).normal(group[:, None], 1.0, (4000, 2))
    assert max_t(y, group, none(4000), "grouped", draws=9).spread == pytest.approx([1, 1], abs=0.05)


@pytest.mark.parametrize("units", [10, 12, 14])
@pytest.mark.parametrize("scale", [np.log(2), 1.0, 1e-3])
def test_draws_that_the_covariates_explain_count_as_exceeding(units: int, scale: float) -> None:
    """Lengths of the same contrast up to its sign: two of all flips lie along the covariate."""
    generator = np.random.default_rng(units)
    sign = np.where(np.arange(units) % 3 == 0, -1.0, 1.0)
    lengths = np.column_stack([sign * scale, sign * scale**2, sign * -0.5])
    y = generator.normal(size=(units, 3)) + np.array([0.0, 1.0, 3.0])
    flips = np.array(list(product([-1.0, 1.0], repeat=units)))
    along_sign = flips @ sign / units
    explained = np.abs(along_sign) == 1
    residual = y - np.outer(sign, sign @ y) / units
    along = (flips @ residual)[~explained] / np.sqrt(units * (1 - along_sign[~explained] ** 2))[:, None]
    null = np.abs(along / np.sqrt(((residual**2).sum(axis=0) - along**2) / (units - 2)))

    outcome = max_t(y, np.ones(units), lengths, "paired", draws=20_000)
    exceeding = explained.sum() + (null.max(axis=1) >= np.abs(outcome.statistic).max() - 1e-9).sum()
    assert outcome.p_value.min() == pytest.approx(exceeding / len(flips), abs=0.003)
    assert np.isfinite([outcome.critical, *outcome.low, *outcome.high]).all()
    largest = np.concatenate([null.max(axis=1), np.full(explained.sum(), np.inf)])
    assert outcome.critical == pytest.approx(np.quantile(largest, 0.95), rel=0.05)


def test_there_is_no_finite_interval_where_the_covariates_explain_too_many_draws() -> None:
    sign = np.array([1.0, -1.0, 1.0, 1.0])
    y = np.random.default_rng(0).normal(size=(4, 2))
    outcome = max_t(y, np.ones(4), sign[:, None], "paired", draws=999)
    assert outcome.critical == np.inf
    assert (outcome.low == -np.inf).all()
    assert (outcome.high == np.inf).all()
    assert (outcome.p_value >= 2 / 2**4).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["paired", "grouped"]), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_result_is_finite_whatever_the_covariates(seed: int, design: str, number: int) -> None:
    """With few distinct values, covariates explain some draws up to rounding, which no statistic may hide."""
    generator = np.random.default_rng(seed)
    lengths = generator.choice([-1.0, 0.0, 1.0], (12, number)) * np.log(generator.integers(2, 9, number))
    x = np.ones(12) if design == "paired" else np.repeat([0.0, 1.0], 6)
    outcome = max_t(generator.normal(size=(12, 4)), x, lengths, design, draws=4999)
    assert not np.isnan(outcome.p_value).any()
    assert not np.isnan(outcome.critical) or np.isnan(outcome.effect).all()
