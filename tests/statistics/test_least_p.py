"""What a test can show at best, against full enumeration."""

from itertools import combinations, product

import numpy as np
import pytest

from stratoscope.statistics import least_rank_p, least_sign_p, max_t, not_shown
from stratoscope.statistics.least_p import least_group_p


@pytest.mark.parametrize("num_units", [1, 3, 6])
def test_signs_of_paired_differences(num_units: int) -> None:
    means = [abs(sum(signs)) for signs in product((-1, 1), repeat=num_units)]
    assert least_sign_p(num_units) == np.mean([mean >= num_units for mean in means])


@pytest.mark.parametrize(("first", "second"), [(2, 2), (2, 4), (3, 3)])
def test_two_groups(first: int, second: int) -> None:
    values = np.r_[np.ones(first), np.zeros(second)]
    everything = range(first + second)

    def difference(members: tuple[int, ...]) -> float:
        others = [i for i in everything if i not in members]
        return abs(values[list(members)].mean() - values[others].mean())

    observed = difference(tuple(range(first)))
    differences = [difference(members) for members in combinations(everything, first)]
    assert least_group_p(first, second) == np.mean([value >= observed for value in differences])


@pytest.mark.parametrize(("num_units", "draws"), [(8, 9999), (30, 99)])
def test_no_test_of_effects_goes_below_its_least_p_value(num_units: int, draws: int) -> None:
    y = 5 + np.random.default_rng(0).normal(0, 0.1, (num_units, 3))
    test = max_t(y, np.ones(num_units), np.empty((num_units, 0)), "paired", draws=draws)
    assert test.least_p == max(least_sign_p(num_units), least_rank_p(draws))
    assert test.p_value.min() == pytest.approx(test.least_p, rel=0.3)


def test_the_sentence_names_the_source_and_the_p_value() -> None:
    assert not_shown("2 sets", 1 / 3) == "no difference could be shown with 2 sets (the least possible p is 0.33)"
