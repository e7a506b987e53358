"""From the trials of a search to a Pareto front and a choice."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stratoscope.pruning.evaluation import Evaluation
from stratoscope.pruning.space import LayerSet, PruningCandidate


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial."""

    trial_id: str
    origin: str
    """starting point, the algorithm, or swap for the swaps after another algorithm."""
    candidate: PruningCandidate | None
    """The candidate; None where no score selected the layers."""
    dropped: LayerSet
    evaluation: Evaluation | None
    """The evaluation on the items of the search; None where the trial failed."""
    retention: float
    """The retention that the search optimises; NaN where there is none."""
    objective: float | None
    share_of_items: float
    """Share of the search's items that the trial was evaluated on."""
    status: str
    """done, stopped or error."""
    error: str | None = None


def pareto_front(trials: Iterable[TrialResult]) -> list[TrialResult]:
    """Return the finished trials that no other dominates, the smallest set first.

    A trial dominates another if it drops at least as many layers and retains at least as much. Of sets of one size
    the first of the best is part of the front.
    """
    best: dict[int, TrialResult] = {}
    for trial in trials:
        if trial.status != "done" or math.isnan(trial.retention):
            continue
        size = len(trial.dropped)
        if size not in best or trial.retention > best[size].retention:
            best[size] = trial
    front: list[TrialResult] = []
    for size in sorted(best, reverse=True):
        if not front or best[size].retention > front[-1].retention:
            front.append(best[size])
    return front[::-1]


def choose(front: Sequence[TrialResult], min_retention: float) -> TrialResult | None:
    """Return the largest set of a front that retains enough, else the one that retains most.

    Sets that drop nothing do not count. None is returned where no other set is in the front.
    """
    sets = [trial for trial in front if trial.dropped]
    sufficient = [trial for trial in sets if trial.retention >= min_retention]
    if sufficient:
        return max(sufficient, key=lambda trial: len(trial.dropped))
    return max(sets, key=lambda trial: trial.retention, default=None)


def best_objectives(trials: Iterable[TrialResult]) -> list[float | None]:
    """Return, after each trial, the best objective among trials of as many layers on as many items; None before any."""
    best: dict[tuple[int, float], float] = {}
    curve = []
    for trial in trials:
        kind = (len(trial.dropped), trial.share_of_items)
        if trial.objective is not None:
            best[kind] = max(trial.objective, best.get(kind, trial.objective))
        curve.append(best.get(kind))
    return curve


def reference_trial(trials: Iterable[TrialResult], size: int) -> TrialResult | None:
    """Return the trial that a chosen set is compared with: AVSS at its first settings, else the first score."""
    same_size = [t for t in trials if t.status == "done" and t.candidate and len(t.dropped) == size]
    avss = [t for t in same_size if t.candidate and t.candidate.metric == "avss"]
    return next(iter(avss or same_size), None)


def random_sets(layers: Sequence[int], size: int, count: int, seed: int, exclude: Sequence[int] = ()) -> list[LayerSet]:
    """Return distinct seeded random sets of one size.

    Args:
        layers: layers that may be dropped.
        size: number of layers of each set.
        count: number of sets; there are fewer where not as many exist.
        seed: seed of the draws.
        exclude: a set that is not returned.
    """
    generator = np.random.default_rng([seed, len(layers), size])
    sets: dict[LayerSet, None] = {}
    for _ in range(100 * count):
        if len(sets) == count:
            break
        chosen = tuple(sorted(layers[i] for i in generator.choice(len(layers), size, replace=False)))
        if chosen != tuple(exclude):
            sets[chosen] = None
    return list(sets)
