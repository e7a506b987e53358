"""Multiple testing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from stratoscope.statistics import bootstrap_p_value, holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_holm_of_hand_numbers() -> None:
    # Times 4, 3, 2, 1 from the smallest on, and never below an earlier one.
    assert holm([0.04, 0.01, 0.03, 0.3]) == pytest.approx([0.09, 0.04, 0.09, 0.3])


@given(P_VALUES)
def test_holm_lies_between_each_p_value_and_bonferroni_and_keeps_their_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for one, its in zip(p_values, corrected, strict=True):
        assert one <= its <= min(1.0, one * len(p_values)) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(corrected)[order]) >= 0)


@given(P_VALUES)
def test_holm_is_no_smaller_than_control_of_false_discoveries(p_values: list[float]) -> None:
    assert np.all(np.array(holm(p_values)) >= false_discovery_control(p_values) - 1e-12)


def test_a_bootstrap_p_value_is_bounded_by_the_number_of_draws() -> None:
    assert bootstrap_p_value(np.full(999, 2.0)) == pytest.approx(0.002)
    assert bootstrap_p_value(np.array([-1.0, 1.0] * 500)) == pytest.approx(1.0, abs=0.01)


def test_draws_without_a_value_have_no_p_value() -> None:
    assert np.isnan(bootstrap_p_value(np.full(999, np.nan)))
    assert np.isnan(bootstrap_p_value(np.array([1.0] * 998 + [np.nan])))


def test_p_values_under_the_null_hypothesis_are_uniform() -> None:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(300):
        values = generator.normal(size=60)
        draws = values[generator.integers(60, size=(400, 60))].mean(axis=1)
        found.append(bootstrap_p_value(draws))
    # 5 % +- 3 standard errors of 300 draws.
    assert 0.01 < np.mean(np.array(found) < 0.05) < 0.09
