"""Strategies of a search over sets of layers: which sets to evaluate next, given the values of earlier ones.

A strategy is a generator. It yields sets of dropped layers and receives their values. It evaluates nothing itself and
knows no budget: `run_strategy` evaluates each set once and ends the strategy when the budget is spent. Strategies are
deterministic, so that a search repeats its steps from stored evaluations.
"""

import random
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from stratoscope.pruning.greedy import SetEvaluator
from stratoscope.pruning.space import LayerSet

IDLE_ROUNDS = 200
"""Consecutive rounds without a new set after which a strategy has exhausted what it can propose."""


@dataclass(frozen=True)
class Proposal:
    """Sets whose values a strategy asks for."""

    sets: tuple[LayerSet, ...]
    origin: LayerSet = ()
    """A set that shares layers with them, and whose hidden states may be kept for them."""


@dataclass(frozen=True)
class EvaluatedSet:
    """A set with its value, which is maximised."""

    dropped: LayerSet
    value: float


Strategy = Generator[Proposal, Sequence[float], None]


def run_strategy(
    strategy: Strategy,
    evaluate: SetEvaluator,
    *,
    budget: int,
    num_layers: int,
    on_progress: Callable[[int], None] = lambda _count: None,
) -> list[EvaluatedSet]:
    """Run a strategy until it ends or its budget is spent, and return the evaluated sets in order.

    A set that a strategy proposes again costs nothing. The last proposal is cut to the remaining budget.

    Args:
        strategy: proposes the sets.
        evaluate: returns the values of several sets, given a set whose hidden states may be kept for them.
        budget: largest number of sets to evaluate.
        num_layers: number of layers of the whole model.
        on_progress: called with the number of evaluated sets after each proposal.
    """
    values: dict[LayerSet, float] = {}
    idle = 0
    try:
        proposal = next(strategy)
        while idle < IDLE_ROUNDS:
            wanted = [dropped for dropped in dict.fromkeys(proposal.sets) if dropped not in values]
            new = wanted[: budget - len(values)]
            if new:
                origin = proposal.origin if saved_layers(proposal.origin, new, num_layers) > 0 else ()
                values |= dict(zip(new, evaluate(origin, new), strict=True))
                on_progress(len(new))
            if len(values) >= budget:
                break
            idle = 0 if new else idle + 1
            proposal = strategy.send([values[dropped] for dropped in proposal.sets])
    except StopIteration:
        pass
    strategy.close()
    return [EvaluatedSet(dropped, value) for dropped, value in values.items()]


def saved_layers(origin: LayerSet, sets: Iterable[LayerSet], num_layers: int) -> int:
    """Return how many layer computations are saved if the hidden states of a set are kept, minus those that it costs.

    A set starts after the layers that it shares with a kept one. The states of the whole model are always kept.

    Args:
        origin: the set whose states would be kept.
        sets: sets that would start from them.
        num_layers: number of layers of the whole model.
    """
    if not origin:
        return 0

    def computed(kept: LayerSet, dropped: LayerSet) -> int:
        first = min(set(kept) ^ set(dropped), default=num_layers)
        return sum(layer not in dropped for layer in range(max(first - 1, 0), num_layers))

    gain = sum(max(0, computed((), dropped) - computed(origin, dropped)) for dropped in sets)
    return gain - (num_layers - len(origin))


def best_so_far(history: Sequence[EvaluatedSet], size: int) -> list[float]:
    """Return the best value among sets of a size after each evaluation, minus infinity before the first of them."""
    best, curve = float("-inf"), []
    for evaluated in history:
        if len(evaluated.dropped) == size:
            best = max(best, evaluated.value)
        curve.append(best)
    return curve


def best_sets(history: Sequence[EvaluatedSet], size: int, number: int) -> list[EvaluatedSet]:
    """Return the best sets of a size, the best first; of equal ones the earlier comes first."""
    sized = [evaluated for evaluated in history if len(evaluated.dropped) == size]
    return sorted(sized, key=lambda evaluated: -evaluated.value)[:number]


def growth_start(num_layers: int, size: int, budget: int) -> int:
    """Return the size of a set from which greedy search reaches another size within a budget of evaluations."""
    start = size
    while start > 0 and budget >= (cost := num_layers - start + 1):
        budget -= cost
        start -= 1
    return start


def beam_branches(num_layers: int, size: int, budget: int, width: int) -> int:
    """Return the largest number of extensions of each set, at least 1, for which a beam search fits a budget."""
    return max(1, (budget - num_layers) // (width * max(1, size - 1)))


def random_strategy(layers: Sequence[int], size: int, *, seed: int, batch_size: int = 8) -> Strategy:
    """Propose random sets of one size: the baseline of all other strategies."""
    generator = random.Random(seed)
    while True:
        yield Proposal(tuple(tuple(sorted(generator.sample(layers, size))) for _ in range(batch_size)))


def growth_strategy(starts: Sequence[LayerSet], layers: Sequence[int], size: int) -> Strategy:
    """Add the best next layer to the best of several sets, until it has the wanted size.

    Args:
        starts: sets of one size, such as those of the lowest scores; the empty set gives plain greedy search.
        layers: layers that may be dropped.
        size: size of the last set.

    Source: the loop of SLEB (arXiv 2402.09025), with any start.
    """
    current = starts[0]
    if len(starts) > 1 or len(current) == size:
        current = _best(starts, (yield Proposal(tuple(starts))))
    while len(current) < size:
        larger = tuple(_joined(current, (layer,)) for layer in layers if layer not in current)
        current = _best(larger, (yield Proposal(larger, current)))


def swap_strategy(
    starts: Sequence[LayerSet], layers: Sequence[int], *, exchanged: Sequence[int], seed: int, batch_size: int = 8
) -> Strategy:
    """Improve the best of several sets by exchanges of dropped layers for retained ones.

    Exchanges are proposed in a seeded order, a batch at a time. The best of the first batch that holds an improvement
    becomes the current set. Larger exchanges are proposed once no smaller one improves the current set.

    Args:
        starts: sets of the wanted size.
        layers: layers that may be dropped.
        exchanged: numbers of layers that are exchanged at once, in ascending order: 1 for single swaps, 2 for double
            ones.
        seed: seed of the orders.
        batch_size: number of exchanges that are proposed together.

    Source: ours.
    """
    order = random.Random(seed)
    values = yield Proposal(tuple(starts))
    current, best = _best(starts, values), max(values)
    step = 0
    while step < len(exchanged):
        improved = False
        neighbours = list(_exchanges(current, layers, exchanged[step]))
        order.shuffle(neighbours)
        for first in range(0, len(neighbours), batch_size):
            batch = tuple(neighbours[first : first + batch_size])
            values = yield Proposal(batch, current)
            if max(values) > best:
                current, best, improved = _best(batch, values), max(values), True
                break
        step = 0 if improved else step + 1


def beam_strategy(
    layers: Sequence[int], size: int, *, width: int = 2, branches: int = 4, starts: Sequence[LayerSet] = ()
) -> Strategy:
    """Grow several sets at once, by the layers whose last known cost is lowest.

    First each layer is dropped alone. Then each of the best sets is extended by the layers that cost least when they
    were last added to any set. The new cost replaces the older one, as in lazy greedy search. The next beam consists of
    the best of all extensions and of the given sets of that size. The extensions of a set share its hidden states.

    Args:
        layers: layers that may be dropped.
        size: size of the last sets.
        width: number of sets that are extended.
        branches: number of extensions of each set.
        starts: sets that join the beam at their size, such as those of the lowest scores.

    Source: ours; the order of stale gains is that of Minoux's lazy greedy algorithm (1978).
    """
    singles: tuple[LayerSet, ...] = tuple((layer,) for layer in layers)
    values = yield Proposal(singles)
    cost = {layer: -value for layer, value in zip(layers, values, strict=True)}
    level = dict(zip(singles, values, strict=True))
    for length in range(1, size):
        joining = tuple(dropped for dropped in starts if len(dropped) == length)
        if joining:
            level |= dict(zip(joining, (yield Proposal(joining)), strict=True))
        beam = sorted(level, key=lambda dropped: -level[dropped])[:width]
        extended: dict[LayerSet, float] = {}
        for parent in beam:
            cheapest = sorted((layer for layer in layers if layer not in parent), key=cost.__getitem__)[:branches]
            larger = tuple(_joined(parent, (layer,)) for layer in cheapest)
            values = yield Proposal(larger, parent)
            extended |= dict(zip(larger, values, strict=True))
            cost |= {layer: level[parent] - value for layer, value in zip(cheapest, values, strict=True)}
        level = extended


def _best(sets: Sequence[LayerSet], values: Sequence[float]) -> LayerSet:
    """Return the best set, the first of several."""
    return sets[max(range(len(sets)), key=values.__getitem__)]


def _joined(dropped: LayerSet, layers: Iterable[int]) -> LayerSet:
    return tuple(sorted({*dropped, *layers}))


def _exchanges(current: LayerSet, layers: Sequence[int], number: int) -> Iterable[LayerSet]:
    """Yield the sets that differ from a set in a number of exchanged layers."""
    others = [layer for layer in layers if layer not in current]
    for out in combinations(current, number):
        rest = set(current) - set(out)
        for into in combinations(others, number):
            yield tuple(sorted(rest | set(into)))
