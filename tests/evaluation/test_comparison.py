import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.evaluation import ItemValues, Resampling, Score, compare, compare_variants, group_scores

RESAMPLING = Resampling(draws=400, seed=3)
SHARES = st.integers(0, 8).map(lambda eighths: eighths / 8)


def items(values: list[float], prefix: str = "i") -> ItemValues:
    return group_scores(Score("d", "acc", f"{prefix}{i:04d}", value) for i, value in enumerate(values))["d", "acc"]


def test_a_base_of_0_has_no_relative_change_and_says_so() -> None:
    comparison = compare(items([0.0] * 20), items([1.0] * 5 + [0.0] * 15), RESAMPLING)
    assert (comparison.before.value, comparison.after.value) == (0, 0.25)
    assert comparison.difference.low > 0
    assert comparison.ratio.missing
    assert comparison.relative.missing
    assert comparison.ratio.text(".1%") == comparison.relative.interval_text("+.1%") == "not defined"


def test_a_base_of_1_retains_what_is_left() -> None:
    comparison = compare(items([1.0] * 20), items([1.0] * 15 + [0.0] * 5), RESAMPLING)
    assert comparison.ratio.value == pytest.approx(0.75)
    assert comparison.relative.value == pytest.approx(-0.25)
    assert 0 < comparison.ratio.low < 0.75 < comparison.ratio.high <= 1
    assert comparison.ratio.text(".0%").startswith("75% (")


def test_a_base_that_some_draws_bring_to_0_still_has_an_interval() -> None:
    comparison = compare(items([1.0] + [0.0] * 9), items([1.0] * 2 + [0.0] * 8), RESAMPLING)
    assert comparison.ratio.value == pytest.approx(2)
    assert np.isfinite([comparison.ratio.low, comparison.ratio.high]).all()


def test_models_without_a_common_item_are_refused() -> None:
    with pytest.raises(ValueError, match="same items for both models, and 0 of 2 and 2 are shared"):
        compare(items([1, 0], "a"), items([1, 0], "b"), RESAMPLING)
    with pytest.raises(ValueError, match="same items"):
        compare(items([1, 0]), items([1, 0, 1]), RESAMPLING)
    nothing = ItemValues((), np.empty(0), np.empty(0))
    with pytest.raises(ValueError, match="at least one item"):
        compare(nothing, nothing, RESAMPLING)


def test_perplexity_is_the_exponential_of_a_mean_over_tokens() -> None:
    scores = [Score("text", "perplexity", "a", 20.0, 10), Score("text", "perplexity", "b", 10.0, 5)]
    (values,) = group_scores(scores).values()
    assert compare(values, values, RESAMPLING, "perplexity").before.value == pytest.approx(np.exp(2))


def test_variants_are_compared_by_the_mean_over_seeds_and_corrected_over_data_sets() -> None:
    def model(first: list[float], second: list[float]) -> dict:
        scores = [("x", first), ("y", second)]
        return group_scores(
            Score(dataset, "acc", str(i), v) for dataset, values in scores for i, v in enumerate(values)
        )

    base = [model([0.0] * 10, [1.0, 0.0] * 5)]
    trained = [model([1.0] * 4 + [0.0] * 6, [1.0] * 10), model([1.0] * 6 + [0.0] * 4, [1.0] * 10)]
    rows = compare_variants({"trained": trained, "base": base}, RESAMPLING)
    assert [(r.variant, r.other, r.dataset) for r in rows] == [("trained", "base", d) for d in ("x", "y", None)]
    x, y, mean = rows
    assert (x.seeds, x.comparison.num_items, mean.comparison.num_items) == (2, 10, 20)
    assert x.comparison.after.value == pytest.approx(0.5)
    assert x.spread == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert np.isnan(x.other_spread)
    assert x.comparison.relative.missing
    assert y.comparison.relative.value == pytest.approx(1)
    assert mean.comparison.difference.value == pytest.approx((0.5 + 0.5) / 2)
    assert min(x.p_holm, y.p_holm) == pytest.approx(min(1, 2 * min(x.p_value, y.p_value)))
    other = [model([1.0] * 3, [1.0] * 10)]
    with pytest.raises(ValueError, match="same items"):
        compare_variants({"trained": trained, "other": other}, RESAMPLING)


@pytest.mark.parametrize(("num_items", "num_better"), [(4, 4), (5, 5), (60, 4)])
def test_no_p_value_is_below_what_so_many_items_allow(num_items: int, num_better: int) -> None:
    before, after = items([0.0] * num_items), items([1.0] * num_better + [0.0] * (num_items - num_better))
    models = {"after": [{("d", "acc"): after}], "before": [{("d", "acc"): before}]}
    (row,) = compare_variants(models, RESAMPLING)
    assert row.p_value == pytest.approx(2 / 2**num_better)
    assert row.least_p == pytest.approx(max(2 / 401, 2 / 2**num_items))
    assert row.comparison.difference.low > 0
    assert row.comparison.within_noise


def test_the_least_p_value_grows_with_the_data_sets_that_are_tested_together() -> None:
    model = {(name, "acc"): items([1.0] * 20) for name in "abcd"}
    other = {key: items([0.0] * 20) for key in model}
    *rows, mean = compare_variants({"one": [model], "other": [other]}, Resampling(draws=100))
    assert [row.least_p for row in rows] == pytest.approx([4 * 2 / 101] * 4)
    assert [row.p_holm for row in rows] == pytest.approx([row.least_p for row in rows])
    assert mean.least_p == pytest.approx(2 / 101)


@settings(max_examples=50)
@given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=40))
def test_no_comparison_has_an_infinite_value(pairs: list[tuple[float, float]]) -> None:
    before, after = items([b for b, _ in pairs]), items([a for _, a in pairs])
    comparison = compare(before, after, RESAMPLING)
    for estimate in (comparison.before, comparison.after, comparison.difference, comparison.ratio):
        assert estimate.missing or np.isfinite([estimate.value, estimate.low, estimate.high]).all()
        assert "nan" not in estimate.text(".3f")
        assert "inf" not in estimate.text("+.1%")
    assert comparison.ratio.missing == (comparison.before.value == 0)
    same = compare(before, before, RESAMPLING)
    assert (same.difference.low, same.difference.value, same.difference.high) == (0, 0, 0)
    assert same.within_noise
