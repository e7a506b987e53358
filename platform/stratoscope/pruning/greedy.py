"""Searches that need no score: greedy, layer by layer, and swaps of single layers, from a set that is good already.

Both try sets that differ from a current one in one or two layers. The evaluators keep the hidden states of the current
set, so that each try runs only the layers behind the first difference.
"""

import random
from collections.abc import Callable, Sequence

from stratoscope.execution import Service
from stratoscope.pipelines.search.pruning.worker import Evaluation

Judge = Callable[[Evaluation], float]


def greedy_sets(
    service: Service,
    num_layers: int,
    *,
    most: int,
    judge: Judge,
    num_slices: int | None,
    on_progress: Callable[[int], None],
) -> list[tuple[int, ...]]:
    """Return the sets of 1 to `most` layers that dropping the best layer next, one after the other, finds.

    Args:
        service: the evaluators.
        num_layers: of the model.
        most: size of the last set.
        judge: what is to be large.
        num_slices: slices of the search's items to judge by.
        on_progress: called with the number of tries after each step.

    Source: the loop of SLEB (arXiv 2402.09025), with any objective.
    """
    current: tuple[int, ...] = ()
    found = []
    for _ in range(most):
        tries = [tuple(sorted((*current, layer))) for layer in range(num_layers) if layer not in current]
        current, _ = _best(service, current, tries, judge, num_slices)
        found.append(current)
        on_progress(len(tries))
    return found


def swap_layers(
    service: Service,
    start: tuple[int, ...],
    num_layers: int,
    *,
    budget: int,
    judge: Judge,
    seed: int,
    on_progress: Callable[[int], None],
) -> list[tuple[int, ...]]:
    """Return the sets that swapping a dropped layer for a kept one leads to, each better than the one before.

    Tries come in a seeded order, as many at once as there are evaluators; the first that is better becomes the current
    set, and the search goes on from there until the budget is used or no try is left.

    Args:
        service: the evaluators.
        start: the set to begin with.
        num_layers: of the model.
        budget: most tries.
        judge: what is to be large, on all the search's items.
        seed: of the order.
        on_progress: called with the number of tries after each round.

    Source: ours.
    """
    order = random.Random(seed)
    current, best = start, judge(service.call("evaluate", start, "search"))
    found: list[tuple[int, ...]] = []
    while budget > 0:
        service.broadcast("remember", current)
        kept = [layer for layer in range(num_layers) if layer not in current]
        swaps = [(out, into) for out in current for into in kept]
        order.shuffle(swaps)
        better = None
        for first in range(0, min(len(swaps), budget), service.size):
            tries = [_swapped(current, *swap) for swap in swaps[first : first + service.size]]
            values = _judged(service, tries, judge, None)
            budget -= len(tries)
            on_progress(len(tries))
            value, index = max((v, -i) for i, v in enumerate(values))
            if value > best:
                better, best = tries[-index], value
                break
            if budget <= 0:
                break
        if better is None:
            break
        current = better
        found.append(current)
    return found


def _best(
    service: Service,
    current: tuple[int, ...],
    tries: Sequence[tuple[int, ...]],
    judge: Judge,
    num_slices: int | None,
) -> tuple[tuple[int, ...], float]:
    service.broadcast("remember", current, num_slices)
    values = _judged(service, tries, judge, num_slices)
    value, index = max((value, -index) for index, value in enumerate(values))
    return tries[-index], value


def _judged(service: Service, tries: Sequence[tuple[int, ...]], judge: Judge, num_slices: int | None) -> list[float]:
    outcomes = service.map("evaluate", [(dropped, "search", num_slices) for dropped in tries])
    return [judge(outcome) for outcome in outcomes]


def _swapped(layers: tuple[int, ...], out: int, into: int) -> tuple[int, ...]:
    return tuple(sorted({*layers, into} - {out}))
