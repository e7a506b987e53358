"""Paired runs of two models."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratoscope.models.speed import PAIRS, compare_runs
from stratoscope.pruning import compare_speed
from tests.models.test_prune import load_tiny


def test_a_ratio_is_the_median_of_pairs_that_take_turns_after_a_run_that_does_not_count() -> None:
    order: list[str] = []

    def run(name: str, seconds: Iterator[float]) -> Callable[[], float]:
        def once() -> float:
            order.append(name)
            return next(seconds)

        return once

    # A machine that slows down, and one run that something else disturbs: unpaired medians would differ.
    first, second = [99.0, 2, 4, 6, 8, 10], [99.0, 1, 2, 30, 4, 5]
    result = compare_runs("what", "1/s", (run("a", iter(first)), run("b", iter(second))), lambda seconds: 1 / seconds)
    assert "".join(order) == "ab" + "abbaabbaab"
    assert (result.gain, result.gain_low, result.gain_high) == (2, 0.2, 2)
    assert (result.before, result.after) == (1 / 6, 1 / 4)
    assert PAIRS == 5


def test_a_model_without_layers_is_compared_with_the_whole_one(tiny_model_folder: Path) -> None:
    model = load_tiny("llama", tiny_model_folder)
    speed = compare_speed(model, (0, 1, 2))
    assert (speed.what, speed.unit) == ("forward pass", "tokens/s")
    assert speed.after > 0
    assert speed.gain_low <= speed.gain <= speed.gain_high
    assert speed.gain_high > 1
    assert len(model.anatomy) == 4


@pytest.mark.parametrize("dropped", [(), (3,)])
def test_layers_are_back_after_the_measurement(dropped: tuple[int, ...], tiny_model_folder: Path) -> None:
    model = load_tiny("llama", tiny_model_folder)
    compare_speed(model, dropped)
    assert len(model.network.model.layers) == 4
