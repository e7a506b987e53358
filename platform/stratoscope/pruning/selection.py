"""From trials to a front, a choice, and what held-out items say of it.."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stratoscope.evaluation import Estimate, Resampling, Retention, TaskScores, retained
from stratoscope.pipelines.search.pruning.worker import Evaluation
from stratoscope.pruning.space import PruningCandidate


@dataclass(frozen=True)
class TrialResult:
    """One trial and how it went."""

    trial_id: str
    origin: str
    """starting point, tpe, nsga2, grid, greedy or swap."""
    candidate: PruningCandidate | None
    """None where no score chose the layers."""
    dropped: tuple[int, ...]
    outcome: Evaluation | None
    """None where it failed."""
    kept: float
    """The retention that the search is about; NaN where there is none."""
    objective: float | None
    share: float
    """Of the search's items, on which it was evaluated."""
    status: str
    """done, stopped or error."""
    error: str | None = None


def pareto_front(trials: Iterable[TrialResult]) -> list[TrialResult]:
    """Return the finished trials that no other beats: fewer layers kept at no less retention; the smallest set first.

    Of equal sets, and of sets of equal size, the best and first stands for all.
    """
    best: dict[int, TrialResult] = {}
    for trial in trials:
        if trial.status != "done" or math.isnan(trial.kept):
            continue
        size = len(trial.dropped)
        if size not in best or trial.kept > best[size].kept:
            best[size] = trial
    front: list[TrialResult] = []
    for size in sorted(best, reverse=True):
        if not front or best[size].kept > front[-1].kept:
            front.append(best[size])
    return front[::-1]


def choose(front: Sequence[TrialResult], keep: float) -> TrialResult | None:
    """Return the largest set of the front that keeps enough, or the one that keeps most; None where there is no front.

    The sets of the front that drop nothing do not count.
    """
    sets = [trial for trial in front if trial.dropped]
    enough = [trial for trial in sets if trial.kept >= keep]
    if enough:
        return max(enough, key=lambda trial: len(trial.dropped))
    return max(sets, key=lambda trial: trial.kept, default=None)


def random_sets(num_layers: int, size: int, count: int, seed: int, other_than: Sequence[int]) -> list[tuple[int, ...]]:
    """Return seeded random sets of one size, all different, and none of them the one that is given.

    There are fewer than `count` where there are not so many sets.
    """
    generator = np.random.default_rng([seed, num_layers, size])
    found: dict[tuple[int, ...], None] = {}
    for _ in range(100 * count):
        if len(found) == count:
            break
        layers = tuple(sorted(int(i) for i in generator.choice(num_layers, size, replace=False)))
        if layers != tuple(other_than):
            found[layers] = None
    return list(found)


@dataclass(frozen=True)
class TaskComparison:
    """A set against the whole model on one task."""

    kind: str
    """chosen, front, reference, random or trial."""
    dropped: tuple[int, ...]
    part: str
    task: str
    metric: str
    items: int
    chance: float
    retention: Retention
    bits_per_byte: tuple[float | None, float | None]
    """Before and after."""


def compare(
    looked_at: tuple[str, tuple[int, ...], str],
    scores: tuple[Mapping[str, TaskScores], Mapping[str, TaskScores]],
    chance: Mapping[str, float],
    metrics: Mapping[str, str],
    how: Resampling,
) -> list[TaskComparison]:
    """Compare a set with the whole model, task by task.

    Args:
        looked_at: why the set is looked at, its layers, and the part of the items.
        scores: of the whole model, and without the layers.
        chance: what guessing gets right, by task.
        metrics: what is counted, by task.
        how: paired bootstrap.
    """
    before, after = scores
    return [
        TaskComparison(
            *looked_at,
            task,
            metrics[task],
            len(base.item_ids),
            chance.get(task, 0.0),
            retained(base, after[task], chance.get(task, 0.0), how),
            (base.bits_per_byte, after[task].bits_per_byte),
        )
        for task, base in before.items()
    ]


@dataclass(frozen=True)
class AgainstRandom:
    """A chosen set against random ones of its size, on held-out items."""

    chosen: float
    random: tuple[float, ...]

    @property
    def beaten(self) -> int:
        """How many random sets retain less."""
        return sum(value < self.chosen for value in self.random)

    @property
    def p_value(self) -> float:
        """Chance of so good a rank for a set that is random too: (1 + sets no worse) / (1 + sets)."""
        return (1 + len(self.random) - self.beaten) / (1 + len(self.random))

    @property
    def verdict(self) -> str:
        """One sentence."""
        total = len(self.random)
        if total == 0:
            return "No random sets were drawn."
        numbers = (
            f"on held-out items it retains {self.chosen:.1%}, they {np.mean(self.random):.1%} on average and "
            f"{max(self.random):.1%} at best (p = {self.p_value:.3f})"
        )
        if self.beaten == total:
            return f"It beats all {total} random sets of its size: {numbers}."
        return f"It does not beat all random sets of its size, but {self.beaten} of {total}: {numbers}."


def estimate_text(estimate: Estimate) -> str:
    """Return the interval of a share as text."""
    return f"{estimate.low:.1%} to {estimate.high:.1%}"
