"""Retention: the share of its base's accuracy that a pruned model keeps, with paired intervals over items."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stratoscope.evaluation.comparison import (
    MISSING,
    Array,
    Comparison,
    Estimate,
    ItemValues,
    PairedItems,
    Resampling,
    check_paired,
    compare_draws,
    ratio,
    resample,
)
from stratoscope.evaluation.evaluator import ItemScore

LEAST_ERRORS = 2.0
"""Standard errors that the base must be above chance for retention above chance to be defined."""


@dataclass(frozen=True, eq=False)
class TaskScores(ItemValues):
    """One model's items of one task, in order of ids. A value is a score, and its weight the largest possible score."""

    log_likelihood: Array
    """Log-likelihood of each item, shape (items,); NaN where a task has none."""
    num_bytes: Array
    """Bytes of each item's text, shape (items,); NaN where a task has none."""
    log_probability: Array
    """Log-probability of each item's right answer, shape (items,); NaN where a task has none."""

    @property
    def num_undefined(self) -> int:
        """Number of items without a score, because the logits for it are not finite."""
        return int(np.isnan(self.value).sum())

    @property
    def accuracy(self) -> float:
        """Share of items or tokens that were right; NaN where an item has no score."""
        return float(self.value.sum() / self.weight.sum())

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of language-model text; None elsewhere."""
        bits = -self.log_likelihood.sum() / np.log(2) / self.num_bytes.sum()
        return None if np.isnan(bits) else float(bits)

    @property
    def mean_probability(self) -> float | None:
        """Mean probability of the right answers, or geometric mean per byte of text; None where neither is known.

        The mean over answers is arithmetic, since a single confident error would dominate a geometric mean.
        """
        bits = self.bits_per_byte
        mean = np.exp(self.log_probability).mean() if bits is None else 2**-bits
        return None if np.isnan(mean) else float(mean)


@dataclass(frozen=True)
class Retention(Comparison):
    """A pruned model against its base on one task."""

    above_chance: Estimate
    """(after - chance) / (before - chance); missing unless the base is `LEAST_ERRORS` standard errors above chance."""

    @property
    def raw(self) -> Estimate:
        """After / before."""
        return self.ratio


def by_task(scores: Sequence[ItemScore], metrics: Mapping[str, str] | None = None) -> dict[str, TaskScores]:
    """Group item scores by task, in order of item ids, so that the items of two models pair up.

    Args:
        scores: the scores.
        metrics: the metric to take, by task, where tasks may have several; scores of other tasks are left out. None
            takes all scores.
    """
    groups: dict[str, list[ItemScore]] = {}
    for score in sorted(scores, key=lambda s: s.item_id):
        if metrics is None or metrics.get(score.task) == score.metric:
            groups.setdefault(score.task, []).append(score)
    return {task: _task_scores(items) for task, items in sorted(groups.items())}


def retained(before: TaskScores, after: TaskScores, chance: float, resampling: Resampling) -> Retention:
    """Compare a pruned model with its base on one task.

    Args:
        before: the base.
        after: the pruned model, on the same items.
        chance: accuracy of guessing.
        resampling: settings of the paired bootstrap over items.

    Raises:
        ValueError: there are no items, or the two models' items differ.

    Source: ours; papers report `raw`.
    """
    start, end = _paired_draws(before, after, resampling)
    confidence = resampling.confidence
    above = Estimate.of_draws(ratio(end - chance, start - chance), confidence) if _above(start, chance) else MISSING
    comparison = compare_draws(PairedItems.of(before.value, after.value), start, end, resampling=resampling)
    return Retention(**vars(comparison), above_chance=above)


def mean_retention(
    before: Mapping[str, TaskScores],
    after: Mapping[str, TaskScores],
    chance: Mapping[str, float],
    resampling: Resampling,
) -> tuple[Estimate, Estimate]:
    """Return raw retention and retention above chance, averaged over tasks.

    Items are resampled within their task. Tasks without a retention are left out; where none has one it is missing.
    """
    raw, above = [], []
    for task, base in before.items():
        start, end = _paired_draws(base, after[task], resampling.stream(task))
        level = chance.get(task, 0.0)
        if start[0] > 0:
            raw.append(ratio(end, start))
        if _above(start, level):
            above.append(ratio(end - level, start - level))
    return _mean(raw, resampling), _mean(above, resampling)


def likelihood_retention(before: Mapping[str, TaskScores], after: Mapping[str, TaskScores]) -> float:
    """Return the share of the right answers' probability that a pruned model keeps, averaged over tasks.

    The probability of text is per byte, so that it is a function of bits per byte. Unlike accuracy, the share
    changes with every item, which a search on few items needs. No task counts more than 1, so that a gain on one does
    not offset a loss on another.

    Args:
        before: the whole model, by task.
        after: the pruned model, on the same items.

    Returns:
        The mean, at most 1; NaN where the whole model has probabilities on no task, or the pruned one lacks one.

    Source: ours.
    """
    pairs = [(scores.mean_probability, after[task].mean_probability) for task, scores in before.items()]
    kept = [math.nan if end is None else min(1.0, end / start) for start, end in pairs if start]
    return float(np.mean(kept)) if kept else math.nan


def mean_gain(
    base: Mapping[str, TaskScores],
    one: Mapping[str, TaskScores],
    other: Mapping[str, TaskScores],
    resampling: Resampling,
) -> Estimate:
    """Return how much more of the base the other model retains, raw and averaged over tasks, with a paired interval.

    Args:
        base: the whole model, by task.
        one: a pruned model on the same items.
        other: another pruned model on the same items.
        resampling: settings of the paired bootstrap over items, within tasks.
    """
    gains = []
    for task, whole in base.items():
        start, first = _paired_draws(whole, one[task], resampling.stream(task))
        _, second = _paired_draws(whole, other[task], resampling.stream(task))
        if start[0] > 0:
            gains.append(ratio(second - first, start))
    return _mean(gains, resampling)


def _paired_draws(before: TaskScores, after: TaskScores, resampling: Resampling) -> tuple[Array, Array]:
    check_paired(before, after)
    return resample(before, resampling), resample(after, resampling)


def _mean(draws: Sequence[Array], resampling: Resampling) -> Estimate:
    return Estimate.of_draws(np.mean(draws, axis=0), resampling.confidence) if draws else MISSING


def _above(before: Array, chance: float) -> bool:
    """Tell whether the base is far enough above chance."""
    return bool(before[0] - chance > LEAST_ERRORS * before[1:].std())


def _task_scores(items: Sequence[ItemScore]) -> TaskScores:
    names = ("value", "weight", "log_likelihood", "num_bytes", "log_probability")
    columns = (np.array([getattr(item, name) for item in items], np.float64) for name in names)
    return TaskScores(tuple(item.item_id for item in items), *columns)
