import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.evaluation import (
    ItemScore,
    Resampling,
    TaskScores,
    by_task,
    likelihood_retention,
    mean_retention,
    retained,
)

RESAMPLING = Resampling(draws=400, seed=3)


def scores(values: list[float], weight: float = 1.0, task: str = "t") -> TaskScores:
    return by_task([ItemScore(task, "acc", f"{i:04d}", v, weight, None, None) for i, v in enumerate(values)])[task]


def test_raw_and_above_chance_by_hand() -> None:
    before, after = scores([1] * 55 + [0] * 45), scores([1] * 49 + [0] * 51)
    r = retained(before, after, 0.25, RESAMPLING)
    assert r.raw.value == pytest.approx(0.49 / 0.55)
    assert r.above_chance.value == pytest.approx(0.24 / 0.30)
    assert (r.before.value, r.after.value) == (pytest.approx(0.55), pytest.approx(0.49))
    assert r.raw.low < r.raw.value < r.raw.high
    assert r.difference.low < -0.06 < r.difference.high


def test_retention_above_chance_needs_a_base_above_chance() -> None:
    before, after = scores([1, 0] * 50), scores([0, 1] * 50)
    assert retained(before, after, 0.5, RESAMPLING).above_chance.missing
    assert retained(before, after, 0.45, RESAMPLING).above_chance.missing
    assert not retained(before, after, 0.25, RESAMPLING).above_chance.missing


def test_equal_items_differ_by_nothing_at_all() -> None:
    before = scores([1, 0, 1, 1, 0] * 20)
    r = retained(before, before, 0.25, RESAMPLING)
    assert (r.raw.low, r.raw.value, r.raw.high) == (1, 1, 1)
    assert r.within_noise


def test_pairing_makes_intervals_narrow() -> None:
    generator = np.random.default_rng(0)
    values = (generator.random(400) < 0.6).astype(float)
    worse = values.copy()
    worse[:20] = 0
    paired = retained(scores(list(values)), scores(list(worse)), 0, RESAMPLING)
    shuffled = retained(scores(list(values)), scores(list(generator.permutation(worse))), 0, RESAMPLING)
    assert paired.raw.high - paired.raw.low < 0.6 * (shuffled.raw.high - shuffled.raw.low)
    assert not paired.within_noise


def test_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="same items"):
        retained(scores([1, 0]), scores([1, 0, 1]), 0, RESAMPLING)


def test_the_mean_over_tasks_leaves_out_those_without_a_retention() -> None:
    before = {"a": scores([1] * 50 + [0] * 50), "b": scores([0] * 10), "c": scores([1, 0] * 50)}
    after = {"a": scores([1] * 40 + [0] * 60), "b": scores([1] * 10), "c": scores([1, 0] * 50)}
    raw, above = mean_retention(before, after, {"a": 0.25, "c": 0.5}, RESAMPLING)
    assert raw.value == pytest.approx((0.8 + 1.0) / 2)
    assert above.value == pytest.approx(0.15 / 0.25)
    nothing, _ = mean_retention({"b": before["b"]}, {"b": after["b"]}, {}, RESAMPLING)
    assert nothing.missing


def test_tokens_count_and_bits_per_byte() -> None:
    items = [
        ItemScore("text", "next_token_accuracy", "b", 3, 10, -20.0, 50),
        ItemScore("text", "next_token_accuracy", "a", 1, 30, -60.0, 150),
    ]
    result = by_task(items)["text"]
    assert result.item_ids == ("a", "b")
    assert result.accuracy == pytest.approx(4 / 40)
    assert result.bits_per_byte == pytest.approx(80 / np.log(2) / 200)
    assert scores([1, 0]).bits_per_byte is None


def test_likelihood_retention_is_the_ratio_of_mean_probabilities_and_per_byte_for_text() -> None:
    def model(*log_probabilities: float, text: float) -> dict[str, TaskScores]:
        choices = [ItemScore("c", "acc", str(i), 1, 1, None, None, p) for i, p in enumerate(log_probabilities)]
        return by_task([*choices, ItemScore("t", "next_token_accuracy", "a", 1, 4, text, 10)])

    before, after = model(np.log(0.5), np.log(0.9), text=-8.0), model(np.log(0.25), np.log(0.9), text=-10.0)
    assert likelihood_retention(before, after) == pytest.approx(((0.25 + 0.9) / (0.5 + 0.9) + np.exp(-0.2)) / 2)
    assert likelihood_retention(before, before) == likelihood_retention(after, before) == pytest.approx(1.0)
    assert np.isnan(likelihood_retention({"g": scores([1, 0])}, {"g": scores([1, 1])}))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=60))
def test_intervals_hold_the_value_and_order_of_items_is_nothing(pairs: list[tuple[bool, bool]]) -> None:
    before, after = scores([float(a) for a, _ in pairs]), scores([float(b) for _, b in pairs])
    r = retained(before, after, 0.0, RESAMPLING)
    for estimate in (r.before, r.after, r.difference):
        assert estimate.low - 1e-9 <= estimate.value <= estimate.high + 1e-9
    assert r.raw.missing == (before.accuracy == 0)
    shuffled = by_task(
        [ItemScore("t", "acc", f"{i:04d}", float(a), 1, None, None) for i, (a, _) in list(enumerate(pairs))[::-1]]
    )
    assert np.array_equal(shuffled["t"].value, before.value)


def test_a_broken_item_undefines_the_likelihood_retention_of_all_tasks() -> None:
    def model(*log_probabilities: float, text: float) -> dict[str, TaskScores]:
        choices = [ItemScore("c", "acc", str(i), 1, 1, None, None, p) for i, p in enumerate(log_probabilities)]
        return by_task([*choices, ItemScore("t", "next_token_accuracy", "a", 1, 4, text, 10)])

    whole = model(np.log(0.5), np.log(0.9), text=-8.0)
    assert np.isnan(likelihood_retention(whole, model(np.log(0.5), np.nan, text=-8.0)))
    assert np.isnan(likelihood_retention(whole, model(np.log(0.5), np.log(0.9), text=np.nan)))
