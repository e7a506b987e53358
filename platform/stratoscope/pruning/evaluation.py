"""How good a set of dropped layers is: what it retains, and the objective of a search."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stratoscope.evaluation import Estimate, Resampling, TaskScores, likelihood_retention, mean_retention
from stratoscope.pruning.space import LayerSet, Objective

WORST = -1e9
"""Objective of a set that has none."""


@dataclass(frozen=True)
class Evaluation:
    """What a model retains without some layers, on some slices of items."""

    dropped: LayerSet
    accuracy: dict[str, float]
    """Accuracy by task."""
    raw: Estimate
    """Raw retention, averaged over tasks."""
    above_chance: Estimate
    """Retention above chance, averaged over tasks."""
    bits_per_byte: float
    """Bits per byte, averaged over tasks of language-model text; NaN where there are none."""
    seconds: float
    """Time of the evaluation; close to 0 where its item scores were stored."""
    likelihood: float = math.nan
    """Share of the right answers' probability that is kept, averaged over tasks; NaN where no task has one."""
    undefined: str | None = None
    """Items without a score, as the end of a sentence; None where all have one."""


def evaluate_set(
    dropped: LayerSet,
    base: Mapping[str, TaskScores],
    pruned: Mapping[str, TaskScores],
    *,
    chance: Mapping[str, float],
    resampling: Resampling,
    seconds: float,
) -> Evaluation:
    """Return what a model retains without some layers.

    Args:
        dropped: the layers.
        base: scores of the whole model, by task.
        pruned: scores without the layers, on the same items.
        chance: accuracy of guessing, by task.
        resampling: paired bootstrap over items.
        seconds: time that the scores took.
    """
    raw, above_chance = mean_retention(base, pruned, chance, resampling)
    # The base alone says which tasks count, so that no set gains by a task that it breaks.
    bits = [pruned[task].bits_per_byte for task, scores in base.items() if scores.bits_per_byte is not None]
    return Evaluation(
        dropped=dropped,
        accuracy={task: scores.accuracy for task, scores in pruned.items()},
        raw=raw,
        above_chance=above_chance,
        bits_per_byte=float(np.mean([math.nan if b is None else b for b in bits])) if bits else math.nan,
        seconds=seconds,
        likelihood=likelihood_retention(base, pruned),
        undefined=undefined_items(pruned),
    )


def undefined_items(scores: Mapping[str, TaskScores]) -> str | None:
    """Return which items of tasks have no score, as the end of a sentence; None where all have one."""
    parts = [f"{s.num_undefined} of {len(s.item_ids)} items of {task}" for task, s in scores.items() if s.num_undefined]
    return f"the logits for {', '.join(parts)} are not finite" if parts else None


def join_slices(slices: Sequence[Mapping[str, TaskScores]]) -> dict[str, TaskScores]:
    """Join the scores of several slices by task, in order of item ids. A small task is not part of every slice."""
    joined = {}
    for task in sorted({task for scores in slices for task in scores}):
        parts = [scores[task] for scores in slices if task in scores]
        ids = [item_id for part in parts for item_id in part.item_ids]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        columns = [
            np.concatenate([getattr(part, name) for part in parts])[order]
            for name in ("value", "weight", "log_likelihood", "num_bytes", "log_probability")
        ]
        joined[task] = TaskScores(tuple(ids[i] for i in order), *columns)
    return joined


@dataclass(frozen=True)
class ModelSize:
    """Number of parameters of a model."""

    total: int
    by_layer: tuple[int, ...]

    def without(self, dropped: Sequence[int]) -> int:
        """Return the number of parameters without some layers."""
        return self.total - sum(self.by_layer[layer] for layer in dropped)


@dataclass(frozen=True)
class ObjectiveFunction:
    """The objective of a search, which is maximised."""

    objective: Objective
    min_retention: float | None = None
    """Objective value from which size counts instead, so that one number covers both; None if all sizes are equal."""

    def __call__(self, evaluation: Evaluation, share_dropped: float) -> float:
        """Return the objective or, for sets that reach `min_retention`, the share of layers that they drop.

        A set on which an item has no score has the worst objective.
        """
        value = {
            "retention_raw": evaluation.raw.value,
            "retention_above_chance": evaluation.above_chance.value,
            "bits_per_byte": -evaluation.bits_per_byte,
            "likelihood": evaluation.likelihood,
            "mixed": (evaluation.raw.value + evaluation.likelihood) / 2,
        }[self.objective]
        if math.isnan(value) or evaluation.undefined:
            return WORST
        if self.min_retention is None:
            return value
        return share_dropped if value >= self.min_retention else value - self.min_retention
