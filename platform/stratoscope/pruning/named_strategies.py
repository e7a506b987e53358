"""The strategies of a search by name, sized to a budget of evaluations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from stratoscope.pruning.space import LayerSet
from stratoscope.pruning.strategies import (
    Strategy,
    beam_branches,
    beam_strategy,
    growth_start,
    growth_strategy,
    random_strategy,
    swap_strategy,
)
from stratoscope.pruning.surrogate import surrogate_strategy

StrategyName = Literal["random", "surrogate", "swap", "double_swap", "beam", "greedy_from_scores"]
STRATEGY_NAMES: tuple[StrategyName, ...] = get_args(StrategyName)
FROM_SCORES: tuple[StrategyName, ...] = ("surrogate", "swap", "double_swap", "greedy_from_scores")
"""Strategies that start from the sets of scores."""
RANDOM_SHARE = 4
"""The surrogate spends one in this many evaluations on random exchanges before its first fit."""


@dataclass(frozen=True)
class StrategySettings:
    """What every strategy is made from."""

    layers: tuple[int, ...]
    """Layers that may be dropped."""
    num_layers: int
    """Number of layers of the whole model."""
    size: int
    """Number of layers to drop."""
    budget: int
    """Largest number of evaluations."""
    seed: int
    starts: Callable[[int], Sequence[LayerSet]]
    """Returns the sets of a size that a search starts from, at least one."""
    beam_width: int = 2


def least_budget(name: StrategyName, num_layers: int, size: int, beam_width: int) -> int:
    """Return the smallest number of evaluations with which a strategy can search sets of a size.

    A beam evaluates each layer alone, and then at least one extension of each of its sets at each size. Greedy search
    adds at least one layer to a starting set.

    Args:
        name: name of the strategy.
        num_layers: number of layers that may be dropped.
        size: number of layers to drop.
        beam_width: number of sets that a beam extends at once.
    """
    if name == "beam":
        return num_layers + beam_width * (size - 1)
    return num_layers - size + 2 if name == "greedy_from_scores" and size > 1 else 1


def make_strategy(name: StrategyName, settings: StrategySettings) -> Strategy:
    """Return a strategy by its name.

    Greedy search starts at the smallest size from which it reaches the wanted size within the budget. A beam has as
    many branches as fit into the budget.
    """
    layers, size, seed, starts = settings.layers, settings.size, settings.seed, settings.starts
    if name == "random":
        return random_strategy(layers, size, seed=seed)
    if name == "surrogate":
        return surrogate_strategy(
            starts(size), layers, size, seed=seed, num_random=max(1, settings.budget // RANDOM_SHARE)
        )
    if name == "beam":
        width = settings.beam_width
        branches = beam_branches(len(layers), size, settings.budget, width)
        return beam_strategy(layers, size, width=width, branches=branches)
    if name == "greedy_from_scores":
        first = growth_start(len(layers), size, settings.budget - len(starts(size)))
        return growth_strategy(starts(first) if first else [()], layers, size)
    return swap_strategy(starts(size), layers, exchanged=(2,) if name == "double_swap" else (1, 2), seed=seed)
