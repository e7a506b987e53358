"""Greedy search and swaps, with a callable in place of a model."""

from collections.abc import Sequence

from stratoscope.pruning import LayerSet, greedy_sets, swap_layers

COST = (5.0, 1.0, 4.0, 2.0, 3.0)
"""What each layer costs when it is dropped."""


class Additive:
    """Evaluates a set by the costs of its layers, and records the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[LayerSet, int]] = []

    def __call__(self, current: LayerSet, sets: Sequence[LayerSet]) -> list[float]:
        self.calls.append((current, len(sets)))
        return [-sum(COST[layer] for layer in dropped) for dropped in sets]


def test_greedy_search_adds_the_cheapest_layer() -> None:
    evaluate, steps = Additive(), list[int]()
    assert greedy_sets(evaluate, range(5), max_size=3, on_progress=steps.append) == [(1,), (1, 3), (1, 3, 4)]
    assert evaluate.calls == [((), 5), ((1,), 4), ((1, 3), 3)]
    assert steps == [5, 4, 3]


def test_of_equal_sets_the_first_is_the_best() -> None:
    sets = greedy_sets(lambda _current, sets: [0.0] * len(sets), range(3), max_size=2, on_progress=lambda _count: None)
    assert sets == [(0,), (0, 1)]


def test_swaps_improve_the_set_until_no_swap_does() -> None:
    evaluate = Additive()
    sets = swap_layers(evaluate, (0, 2), range(5), budget=1000, batch_size=2, seed=0, on_progress=lambda _count: None)
    assert sets[-1] == (1, 3)
    costs = [sum(COST[layer] for layer in dropped) for dropped in [(0, 2), *sets]]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)


def test_swaps_end_with_their_budget() -> None:
    tried: list[int] = []
    assert swap_layers(Additive(), (1, 3), range(5), budget=3, batch_size=2, seed=0, on_progress=tried.append) == []
    assert tried == [2, 1]


def test_a_set_of_all_layers_has_no_swaps() -> None:
    sets = swap_layers(Additive(), (0, 1, 2), range(3), budget=9, batch_size=1, seed=0, on_progress=lambda _count: None)
    assert sets == []
