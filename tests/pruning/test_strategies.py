"""Strategies of a search over sets, with a function in place of a model."""

import math
import random
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.pruning import (
    STRATEGY_NAMES,
    EvaluatedSet,
    LayerSet,
    StrategyName,
    StrategySettings,
    best_sets,
    best_so_far,
    least_budget,
    make_strategy,
    random_sets,
    run_strategy,
)
from stratoscope.pruning.strategies import (
    Proposal,
    Strategy,
    beam_branches,
    beam_strategy,
    growth_start,
    growth_strategy,
    saved_layers,
    swap_strategy,
)
from stratoscope.pruning.surrogate import upper_bounds

NUM_LAYERS, SIZE = 12, 4
LAYERS = tuple(range(NUM_LAYERS))


class Landscape:
    """Evaluates sets by the costs of layers and of pairs, and records the calls."""

    def __init__(self, seed: int, pairs: float = 0.5) -> None:
        draw = random.Random(seed)
        self.cost = [draw.random() for _ in LAYERS]
        self.pair = {pair: pairs * draw.random() for pair in combinations(LAYERS, 2)}
        self.calls: list[tuple[LayerSet, tuple[LayerSet, ...]]] = []

    def __call__(self, origin: LayerSet, sets: Sequence[LayerSet]) -> list[float]:
        self.calls.append((origin, tuple(sets)))
        return [self.value(dropped) for dropped in sets]

    def value(self, dropped: LayerSet) -> float:
        return -sum(self.cost[i] for i in dropped) - sum(self.pair[p] for p in combinations(dropped, 2))


def settings_of(seed: int, budget: int, starts: Callable[[int], Sequence[LayerSet]] | None = None) -> StrategySettings:
    given_starts = starts or (lambda size: random_sets(LAYERS, size, 2, seed))
    return StrategySettings(LAYERS, NUM_LAYERS, SIZE, budget, seed, given_starts)


@pytest.mark.parametrize("name", STRATEGY_NAMES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), budget=st.integers(13, 60))
def test_every_strategy_is_repeatable_and_keeps_its_budget(name: StrategyName, seed: int, budget: int) -> None:
    landscape = Landscape(seed)
    history = run_strategy(
        make_strategy(name, settings_of(seed, budget)), landscape, budget=budget, num_layers=NUM_LAYERS
    )
    assert history == run_strategy(
        make_strategy(name, settings_of(seed, budget)), Landscape(seed), budget=budget, num_layers=NUM_LAYERS
    )
    sets = [evaluated.dropped for evaluated in history]
    assert len(sets) == len(set(sets)) <= budget
    assert sum(len(asked) for _, asked in landscape.calls) == len(sets)
    assert all(s == tuple(sorted(set(s))) and set(s) <= set(LAYERS) and 0 < len(s) <= SIZE for s in sets)
    assert all(evaluated.value == landscape.value(evaluated.dropped) for evaluated in history)
    curve = best_so_far(history, SIZE)
    assert curve == sorted(curve)
    if curve[-1] > -math.inf:
        assert best_sets(history, SIZE, 1)[0].value == curve[-1]


@pytest.mark.parametrize("name", ["surrogate", "swap", "beam"])
def test_strategies_beat_random_sets(name: StrategyName) -> None:
    def best(strategy: StrategyName, seed: int) -> float:
        made = make_strategy(strategy, settings_of(seed, 50))
        return best_so_far(run_strategy(made, Landscape(seed), budget=50, num_layers=NUM_LAYERS), SIZE)[-1]

    wins = [best(name, seed) >= best("random", seed) for seed in range(20)]
    assert sum(wins) >= 17


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_an_interrupted_search_goes_on_from_stored_evaluations(name: StrategyName) -> None:
    landscape, stored = Landscape(5), dict[LayerSet, float]()

    def search(most: int) -> list[EvaluatedSet]:
        def evaluate(_origin: LayerSet, sets: Sequence[LayerSet]) -> list[float]:
            for dropped in sets:
                if dropped not in stored and len(stored) == most:
                    raise InterruptedError
                stored.setdefault(dropped, landscape.value(dropped))
            return [stored[dropped] for dropped in sets]

        return run_strategy(make_strategy(name, settings_of(5, 40)), evaluate, budget=40, num_layers=NUM_LAYERS)

    with pytest.raises(InterruptedError):
        search(most=11)
    history = search(most=40)
    assert len(stored) == len(history)
    assert history == run_strategy(
        make_strategy(name, settings_of(5, 40)), Landscape(5), budget=40, num_layers=NUM_LAYERS
    )


def test_swaps_end_where_no_exchange_of_one_or_two_layers_is_better() -> None:
    landscape = Landscape(3)
    made = swap_strategy([(0, 1, 2, 3)], LAYERS, exchanged=(1, 2), seed=0)
    history = run_strategy(made, landscape, budget=10_000, num_layers=NUM_LAYERS)
    (best,) = best_sets(history, SIZE, 1)
    near = [s for s in combinations(LAYERS, SIZE) if len(set(s) - set(best.dropped)) <= 2]
    assert best.value == max(map(landscape.value, near))


def test_growth_is_greedy_from_the_best_start() -> None:
    landscape = Landscape(1)
    starts = [(0, 1), (5, 6)]
    history = run_strategy(growth_strategy(starts, LAYERS, SIZE), landscape, budget=1000, num_layers=NUM_LAYERS)
    current = max(starts, key=landscape.value)
    for _ in range(2):
        larger = [tuple(sorted((*current, layer))) for layer in LAYERS if layer not in current]
        current = max(larger, key=landscape.value)
    assert best_sets(history, SIZE, 1)[0].dropped == current


def test_a_wide_beam_finds_the_best_set_and_takes_in_given_ones() -> None:
    landscape = Landscape(2, pairs=0.0)
    history = run_strategy(
        beam_strategy(LAYERS, SIZE, width=3, branches=3), landscape, budget=1000, num_layers=NUM_LAYERS
    )
    cheapest = tuple(sorted(sorted(LAYERS, key=landscape.cost.__getitem__)[:SIZE]))
    assert best_sets(history, SIZE, 1)[0].dropped == cheapest
    history = run_strategy(
        beam_strategy(LAYERS, SIZE, starts=[(9, 10, 11)]), landscape, budget=1000, num_layers=NUM_LAYERS
    )
    assert (9, 10, 11) in [evaluated.dropped for evaluated in history]


def test_a_strategy_that_proposes_nothing_new_ends() -> None:
    def repeating() -> Strategy:
        while True:
            yield Proposal(((1,), (2,)))

    history = run_strategy(repeating(), Landscape(0), budget=100, num_layers=NUM_LAYERS)
    assert [evaluated.dropped for evaluated in history] == [(1,), (2,)]


@settings(max_examples=50)
@given(st.data())
def test_hidden_states_are_kept_where_this_saves_layers(data: st.DataObject) -> None:
    def sets(size: int) -> LayerSet:
        return tuple(sorted(data.draw(st.sets(st.sampled_from(LAYERS), min_size=size, max_size=size))))

    origin, others = sets(3), [sets(4) for _ in range(data.draw(st.integers(0, 6)))]

    def layers_run(dropped: LayerSet, kept: LayerSet) -> int:
        same = 0
        while same < NUM_LAYERS and (same in kept) == (same in dropped):
            same += 1
        return sum(layer not in dropped for layer in range(max(same - 1, 0), NUM_LAYERS))

    without = sum(layers_run(dropped, ()) for dropped in others)
    with_states = (
        NUM_LAYERS - len(origin) + sum(min(layers_run(dropped, ()), layers_run(dropped, origin)) for dropped in others)
    )
    assert saved_layers(origin, others, NUM_LAYERS) == without - with_states
    assert saved_layers((), others, NUM_LAYERS) == 0


def test_states_of_a_set_are_kept_for_its_extensions_only_where_they_save_time() -> None:
    landscape = Landscape(0)
    # Extensions behind the last dropped layer share nearly all of its states.
    made = growth_strategy([(0, 1)], (0, 1, 8, 9, 10, 11), 3)
    run_strategy(made, landscape, budget=100, num_layers=NUM_LAYERS)
    assert landscape.calls[-1][0] == (0, 1)
    made = growth_strategy([(10, 11)], (*LAYERS[:4], 10, 11), 3)
    run_strategy(made, landscape, budget=100, num_layers=NUM_LAYERS)
    assert landscape.calls[-1][0] == ()


@settings(max_examples=50)
@given(st.integers(2, 40), st.data())
def test_sizes_fit_the_budget(num_layers: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, num_layers - 1))
    budget = data.draw(st.integers(0, 500))
    start = growth_start(num_layers, size, budget)
    steps = [num_layers - length for length in range(start, size)]
    assert sum(steps) <= budget
    assert start == 0 or sum(steps) + num_layers - start + 1 > budget
    width = data.draw(st.integers(1, 4))
    branches = beam_branches(num_layers, size, budget, width)
    assert branches == 1 or num_layers + (size - 1) * width * branches <= budget


def test_the_surrogate_prefers_layers_of_good_sets() -> None:
    landscape = Landscape(4)
    every = list(combinations(LAYERS, SIZE))
    known = {dropped: landscape.value(dropped) for dropped in random.Random(0).sample(every, 120)}
    rest = [dropped for dropped in every if dropped not in known]
    bounds = upper_bounds(known, rest, LAYERS)
    order = sorted(range(len(rest)), key=lambda i: -bounds[i])
    top = [landscape.value(rest[i]) for i in order[:20]]
    assert sum(top) / 20 > sorted(map(landscape.value, rest))[int(0.9 * len(rest))]


def test_best_sets_are_of_the_size_and_the_earlier_of_equals() -> None:
    history = [EvaluatedSet((1,), 9.0), EvaluatedSet((1, 2), 1.0), EvaluatedSet((1, 3), 2.0), EvaluatedSet((2, 3), 2.0)]
    assert [e.dropped for e in best_sets(history, 2, 2)] == [(1, 3), (2, 3)]
    assert best_so_far(history, 2) == [-math.inf, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("name", STRATEGY_NAMES)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_least_budget_reaches_the_size_from_a_single_start(name: StrategyName, size: int) -> None:
    budget = least_budget(name, NUM_LAYERS, size, 2)
    made = make_strategy(
        name, StrategySettings(LAYERS, NUM_LAYERS, size, budget, 0, lambda wanted: random_sets(LAYERS, wanted, 1, 0))
    )
    history = run_strategy(made, Landscape(0), budget=budget, num_layers=NUM_LAYERS)
    assert best_sets(history, size, 1)
    assert name != "greedy_from_scores" or len(history) > 1 or size == 1
