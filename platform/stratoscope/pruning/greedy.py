"""Searches that need no scores: greedy search, layer by layer, and swaps of single layers in a set.

Both evaluate sets that differ from a current set in one or two layers. An evaluator can store the hidden states of the
current set, so that each evaluation runs only the layers behind the first difference.
"""

import random
from collections.abc import Callable, Sequence

from stratoscope.pruning.space import LayerSet

SetEvaluator = Callable[[LayerSet, Sequence[LayerSet]], list[float]]
"""Returns the objective of several sets, given the current set that they differ from."""


def greedy_sets(
    evaluate: SetEvaluator, layers: Sequence[int], *, max_size: int, on_progress: Callable[[int], None]
) -> list[LayerSet]:
    """Return sets of 1 to `max_size` layers; each adds the best next layer to the one before.

    Args:
        evaluate: returns the objective of several sets.
        layers: layers that may be dropped.
        max_size: size of the last set.
        on_progress: called with the number of evaluated sets after each step.

    Source: the loop of SLEB (arXiv 2402.09025), with any objective.
    """
    current: LayerSet = ()
    sets = []
    for _ in range(max_size):
        neighbours = [tuple(sorted((*current, layer))) for layer in layers if layer not in current]
        current, _ = _best(neighbours, evaluate(current, neighbours))
        sets.append(current)
        on_progress(len(neighbours))
    return sets


def swap_layers(
    evaluate: SetEvaluator,
    start: LayerSet,
    layers: Sequence[int],
    *,
    budget: int,
    batch_size: int,
    seed: int,
    on_progress: Callable[[int], None],
) -> list[LayerSet]:
    """Improve a set by swaps of a dropped layer for a retained one, and return each better set in order.

    Swaps are evaluated in a seeded order, a batch at a time. The best of the first batch that holds an improvement
    becomes the current set. The search ends when the budget is spent or no swap improves the current set.

    Args:
        evaluate: returns the objective of several sets.
        start: the first set.
        layers: layers that may be dropped.
        budget: maximum number of evaluated swaps.
        batch_size: number of swaps evaluated together.
        seed: seed of the order.
        on_progress: called with the number of evaluated swaps after each batch.

    Source: ours.
    """
    order = random.Random(seed)
    current, (best,) = start, evaluate(start, [start])
    sets: list[LayerSet] = []
    while budget > 0:
        swaps = [(out, into) for out in current for into in layers if into not in current]
        order.shuffle(swaps)
        swaps = swaps[:budget]
        for first in range(0, len(swaps), batch_size):
            neighbours = [tuple(sorted({*current, into} - {out})) for out, into in swaps[first : first + batch_size]]
            candidate, value = _best(neighbours, evaluate(current, neighbours))
            budget -= len(neighbours)
            on_progress(len(neighbours))
            if value > best:
                break
        if not swaps or value <= best:
            break
        current, best = candidate, value
        sets.append(current)
    return sets


def _best(sets: Sequence[LayerSet], values: Sequence[float]) -> tuple[LayerSet, float]:
    """Return the best set, the first of several, and its value."""
    index = max(range(len(sets)), key=values.__getitem__)
    return sets[index], values[index]
