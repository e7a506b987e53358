"""What a pruned model retains of its base, with paired intervals over items."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stratoscope.evaluation.evaluator import ItemScore
from stratoscope.statistics import bootstrap_weights, percentile_interval

LEAST_ERRORS = 2.0
"""Standard errors that the base must be above chance before anything is measured from there."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TaskScores:
    """One model's items of one task, in order of their ids."""

    item_ids: tuple[str, ...]
    value: Array
    """What was right, shape (items,)."""
    weight: Array
    """Of how much, shape (items,)."""
    log_likelihood: Array
    """NaN where a task has none, shape (items,)."""
    num_bytes: Array
    """NaN likewise."""

    @property
    def accuracy(self) -> float:
        """Share that was right."""
        return float(self.value.sum() / self.weight.sum())

    @property
    def bits_per_byte(self) -> float | None:
        """Of language-model text; None elsewhere."""
        bits = -self.log_likelihood.sum() / np.log(2) / self.num_bytes.sum()
        return None if np.isnan(bits) else float(bits)


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def missing(self) -> bool:
        """Whether there is no number."""
        return bool(np.isnan(self.value))


@dataclass(frozen=True)
class Retention:
    """What is left of a task."""

    before: Estimate
    after: Estimate
    difference: Estimate
    """after - before, over the same items."""
    raw: Estimate
    """after / before."""
    above_chance: Estimate
    """(after - chance) / (before - chance); NaN where the base is not `LEAST_ERRORS` standard errors above chance."""

    @property
    def within_noise(self) -> bool:
        """Whether the interval of the difference holds 0."""
        return bool(self.difference.low <= 0 <= self.difference.high)


@dataclass(frozen=True)
class Resampling:
    """How intervals are made."""

    draws: int = 1000
    confidence: float = 0.95
    seed: int = 0


def by_task(scores: Sequence[ItemScore]) -> dict[str, TaskScores]:
    """Gather item scores by task, in order of item ids, so that two models' items pair up."""
    found: dict[str, list[ItemScore]] = {}
    for score in sorted(scores, key=lambda s: s.item_id):
        found.setdefault(score.task, []).append(score)
    return {task: _task_scores(items) for task, items in sorted(found.items())}


def retained(before: TaskScores, after: TaskScores, chance: float, how: Resampling) -> Retention:
    """Compare a pruned model with its base on one task.

    Args:
        before: the base.
        after: the pruned model, on the same items.
        chance: what guessing gets right.
        how: paired bootstrap over items.

    Raises:
        ValueError: the items are not the same.

    Source: ours; papers report `raw`.
    """
    draws = _draws(before, after, how)
    start, end = draws.before, draws.after
    usable = _above_chance(start, chance)
    above = _share(end - chance, start - chance) if usable else np.full_like(end, np.nan)
    return Retention(
        before=_estimate(start, how),
        after=_estimate(end, how),
        difference=_estimate(end - start, how),
        raw=_estimate(_share(end, start), how),
        above_chance=_estimate(above, how),
    )


def mean_retention(
    before: Mapping[str, TaskScores], after: Mapping[str, TaskScores], chance: Mapping[str, float], how: Resampling
) -> tuple[Estimate, Estimate]:
    """Return raw retention and that above chance, averaged over tasks.

    Items are resampled within their task. Tasks without a retention are left out; where none has one it is NaN.
    """
    raw, above = [], []
    for task, base in before.items():
        draws = _draws(base, after[task], _of_task(how, task))
        start, end, level = draws.before, draws.after, chance.get(task, 0.0)
        if start[0] > 0:
            raw.append(_share(end, start))
        if _above_chance(start, level):
            above.append(_share(end - level, start - level))
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    return (
        _estimate(np.mean(raw, axis=0), how) if raw else nothing,
        _estimate(np.mean(above, axis=0), how) if above else nothing,
    )


def mean_gain(
    base: Mapping[str, TaskScores], one: Mapping[str, TaskScores], other: Mapping[str, TaskScores], how: Resampling
) -> Estimate:
    """Return how much more of the base the other retains, raw and averaged over tasks, with a paired interval.

    Args:
        base: the whole model, by task.
        one: a pruned model on the same items.
        other: another one.
        how: paired bootstrap over items, within tasks.
    """
    gains = []
    for task, whole in base.items():
        first = _draws(whole, one[task], _of_task(how, task))
        second = _draws(whole, other[task], _of_task(how, task))
        if first.before[0] > 0:
            gains.append(_share(second.after - first.after, first.before))
    return _estimate(np.mean(gains, axis=0), how) if gains else Estimate(float("nan"), float("nan"), float("nan"))


def _of_task(how: Resampling, task: str) -> Resampling:
    """Return a resampling with draws of its own, so that tasks of one size do not share theirs."""
    return replace(how, seed=(how.seed + zlib.crc32(task.encode())) % 2**32)


@dataclass(frozen=True, eq=False)
class _Draws:
    """Accuracies of both models, first as measured, then of each resample, shape (1 + draws,)."""

    before: Array
    after: Array


def _draws(before: TaskScores, after: TaskScores, how: Resampling) -> _Draws:
    if before.item_ids != after.item_ids:
        raise ValueError("retention compares the same items, and these differ")
    num_items = len(before.item_ids)
    weights = np.vstack([np.ones((1, num_items)), bootstrap_weights(num_items, how.draws, how.seed)])
    return _Draws(
        (weights @ before.value) / (weights @ before.weight), (weights @ after.value) / (weights @ after.weight)
    )


def _share(part: Array, whole: Array) -> Array:
    """Return part / whole; NaN where the whole is not above 0."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _above_chance(before: Array, chance: float) -> bool:
    return bool(before[0] - chance > LEAST_ERRORS * before[1:].std())


def _estimate(draws: Array, how: Resampling) -> Estimate:
    if np.isnan(draws[0]):
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = percentile_interval(draws[1:][np.isfinite(draws[1:])], how.confidence)
    return Estimate(float(draws[0]), float(low), float(high))


def _task_scores(items: Sequence[ItemScore]) -> TaskScores:
    def column(name: str) -> Array:
        values = [getattr(item, name) for item in items]
        return np.array([np.nan if v is None else v for v in values], np.float64)

    return TaskScores(
        tuple(item.item_id for item in items),
        column("value"),
        column("weight"),
        column("log_likelihood"),
        column("num_bytes"),
    )
