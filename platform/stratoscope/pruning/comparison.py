"""Comparison of a set of dropped layers with the whole model, with random sets and with other scores."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from stratoscope.evaluation import Estimate, Resampling, Retention, TaskScores, mean_gain, retained
from stratoscope.evaluation.comparison import NOT_DEFINED
from stratoscope.pruning.selection import TrialResult
from stratoscope.pruning.space import LayerSet
from stratoscope.statistics import least_rank_p, least_sign_p, not_shown

ScoreReader = Callable[[LayerSet, str], Mapping[str, TaskScores]]
"""Returns the scores of a set of dropped layers on a part of the items, by task."""
SEARCH, HELD_OUT = "search", "held_out"
"""Parts of the items: those that the search selects by, and those that it never sees."""


@dataclass(frozen=True)
class TaskComparison:
    """A model without some layers compared with the whole model on one task."""

    kind: str
    """chosen, front, reference, random or trial."""
    dropped: LayerSet
    part: str
    task: str
    metric: str
    num_items: int
    chance: float
    retention: Retention
    bits_per_byte_before: float | None
    bits_per_byte_after: float | None


def compare_by_task(
    kind: str,
    dropped: LayerSet,
    part: str,
    read_scores: ScoreReader,
    *,
    chance: Mapping[str, float],
    metrics: Mapping[str, str],
    resampling: Resampling,
) -> list[TaskComparison]:
    """Compare a model without some layers with the whole model, task by task, by one metric of each.

    Args:
        kind: role of the set in the search.
        dropped: the layers.
        part: part of the items.
        read_scores: returns the scores of a set.
        chance: accuracy of guessing, by task.
        metrics: name of the metric, by task.
        resampling: paired bootstrap over items.
    """
    pruned = read_scores(dropped, part)
    return [
        TaskComparison(
            kind=kind,
            dropped=dropped,
            part=part,
            task=task,
            metric=metrics[task],
            num_items=len(base.item_ids),
            chance=chance.get(task, 0.0),
            retention=retained(base, pruned[task], chance.get(task, 0.0), resampling),
            bits_per_byte_before=base.bits_per_byte,
            bits_per_byte_after=pruned[task].bits_per_byte,
        )
        for task, base in read_scores((), part).items()
    ]


def tasks_at_chance(comparisons: Iterable[TaskComparison]) -> list[str]:
    """Return a sentence that names the tasks on which the whole model is not above chance by the metric that counts."""
    by_task: dict[str, TaskComparison] = {}
    for comparison in comparisons:
        if comparison.kind == "chosen" and comparison.part == HELD_OUT:
            by_task.setdefault(comparison.task, comparison)
    tasks = [task for task, comparison in by_task.items() if comparison.retention.above_chance.missing]
    if not tasks:
        return []
    return [
        f"On {', '.join(tasks)} the whole model is not above chance on held-out items: raw retention says little there."
    ]


@dataclass(frozen=True)
class RandomSetComparison:
    """Raw retention of a chosen set and of random sets of its size, on held-out items."""

    chosen: float
    random: tuple[float, ...]
    level: float = 0.05
    """Significance level."""

    @property
    def num_worse(self) -> int:
        """Number of random sets that retain less."""
        return sum(value < self.chosen for value in self.random)

    @property
    def p_value(self) -> float:
        """Probability that a random set ranks as high: (1 + sets no worse) / (1 + sets)."""
        return (1 + len(self.random) - self.num_worse) / (1 + len(self.random))

    @property
    def least_p(self) -> float:
        """Least p-value that so many random sets allow."""
        return least_rank_p(len(self.random))

    @property
    def defined(self) -> list[float]:
        """Values of the random sets that have a retention; those without one do not count as worse."""
        return [value for value in self.random if not math.isnan(value)]

    @property
    def mean(self) -> str:
        """Mean of the random sets that have a retention, as text."""
        return f"{np.mean(self.defined):.1%}" if self.defined else NOT_DEFINED

    @property
    def verdict(self) -> str:
        """The result in one sentence; no finding where the random sets are too few for one."""
        total = len(self.random)
        if total == 0:
            return "No random sets were drawn."
        if math.isnan(self.chosen) or not self.defined:
            whose = "the chosen set's" if math.isnan(self.chosen) else "the random sets'"
            return f"No comparison with random sets: {whose} retention on held-out items is {NOT_DEFINED}."
        undefined = total - len(self.defined)
        numbers = (
            f"on held-out items it retains {self.chosen:.1%}, they {self.mean} on average and "
            f"{max(self.defined):.1%} at best (p = {self.p_value:.3f}"
            f"{f'; {undefined} without a retention count as no worse' if undefined else ''})"
        )
        if self.least_p > self.level:
            sets = f"{total} random set{'s' if total > 1 else ''} of its size"
            return f"For the chosen set, {not_shown(sets, self.least_p)}: {numbers}."
        if self.p_value <= self.level:
            return f"It retains more than random sets of its size, than {self.num_worse} of {total}: {numbers}."
        return (
            f"It does not retain more than random sets of its size, beyond chance: more than {self.num_worse} of "
            f"{total}; {numbers}."
        )


def search_gain(
    chosen: TrialResult,
    held_out: Estimate,
    reference: TrialResult | None,
    read_scores: ScoreReader,
    resampling: Resampling,
) -> Iterator[str]:
    """Yield sentences that show how much of a search's gain is selection bias."""
    if chosen.evaluation is None:
        return
    searched = f"The chosen set retains {chosen.evaluation.raw.value:.1%} on the items of the search"
    if held_out.missing:
        yield f"{searched}; its retention on held-out ones is {NOT_DEFINED}."
        return
    yield f"{searched} and {held_out.value:.1%} on held-out ones ({share_interval(held_out)})."
    if reference is None or reference.evaluation is None or reference.dropped == chosen.dropped:
        return
    search, unseen = (
        _gain(reference.dropped, chosen.dropped, part, read_scores, resampling) for part in (SEARCH, HELD_OUT)
    )
    metric = reference.candidate.metric if reference.candidate else "the reference"
    if unseen.estimate.missing:
        yield f"Its gain against plain {metric} of the same size is {NOT_DEFINED} on held-out items."
        return
    yield (
        f"Against plain {metric} of the same size it gains {_points(search)} on the items of the search and "
        f"{_points(unseen)} on held-out ones{'' if unseen.significant else ', which is within noise'}: "
        f"{100 * (search.estimate.value - unseen.estimate.value):.1f} points of the gain are selection bias."
    )


def metric_gains(trials: Iterable[TrialResult], read_scores: ScoreReader, resampling: Resampling) -> Iterator[str]:
    """Yield a sentence for each setting that shows what AVSS retains beyond variance alone."""
    finished = [t for t in trials if t.status == "done"]
    dropped = {t.candidate: t.dropped for t in finished if t.candidate and not t.candidate.contiguous}
    for candidate, layers in dropped.items():
        alone = replace(candidate, metric="variance", epsilon_kind=None, epsilon=None)
        if candidate.metric != "avss" or alone not in dropped:
            continue
        setting = f"{candidate.tap}, {candidate.variance}, epsilon {candidate.epsilon:.3g}, ratio {candidate.ratio:g}"
        if layers == dropped[alone]:
            yield f"{setting}: AVSS and variance alone drop the same layers."
            continue
        gain = _gain(dropped[alone], layers, SEARCH, read_scores, resampling)
        yield (
            f"{setting}: AVSS retains {100 * gain.estimate.value:+.1f} points more than variance alone "
            f"({_points_interval(gain)}{'' if gain.significant else ', within noise'})."
        )


def share_interval(estimate: Estimate) -> str:
    """Return the interval of a share as text."""
    return f"{estimate.low:.1%} to {estimate.high:.1%}"


@dataclass(frozen=True)
class _Gain:
    """How much more one set retains than another."""

    estimate: Estimate
    num_changed: int
    """Number of items that the two sets score differently."""
    level: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out, and enough items differ to show a difference."""
        return not self.estimate.contains_zero and least_sign_p(self.num_changed) <= self.level


def _gain(reference: LayerSet, other: LayerSet, part: str, read_scores: ScoreReader, resampling: Resampling) -> _Gain:
    """Return how much more another set retains than a reference."""
    base, first, second = (read_scores(dropped, part) for dropped in ((), reference, other))
    num_changed = sum(int((first[task].value != second[task].value).sum()) for task in base)
    return _Gain(mean_gain(base, first, second, resampling), num_changed, resampling.level)


def _points(gain: _Gain) -> str:
    return f"{100 * gain.estimate.value:+.1f} points ({_points_interval(gain)})"


def _points_interval(gain: _Gain) -> str:
    return f"{100 * gain.estimate.low:+.1f} to {100 * gain.estimate.high:+.1f}"
