"""Trials and comparisons as rows of the tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stratoscope.evaluation import Estimate
from stratoscope.pipelines.search.pruning.worker import ModelSize
from stratoscope.pruning.selection import TaskComparison, TrialResult


def trial_row(
    trial: TrialResult, tasks: Sequence[str], target: str, size: ModelSize, speeds: Mapping[int, float]
) -> list[Any]:
    """Return a trial as a row of `trials`.

    Args:
        trial: how it went.
        tasks: names, in order of their columns.
        target: what is searched.
        size: of the model.
        speeds: tokens per second by parameters left.
    """
    c, outcome = trial.candidate, trial.outcome
    scored = (
        [c.tap, c.metric, c.variance, c.epsilon_kind, c.epsilon, c.draw, c.ratio, c.contiguous]
        if c
        else [None, trial.origin, None, None, None, None, len(trial.dropped) / len(size.by_layer), None]
    )
    accuracy = [outcome.accuracy.get(task) if outcome else None for task in tasks]
    found = (
        [*interval_columns(outcome.raw), number(outcome.above_chance.value), number(outcome.bits_per_byte)]
        if outcome
        else [None] * 5
    )
    return [
        trial.trial_id,
        target,
        trial.origin,
        *scored,
        list(trial.dropped),
        *accuracy,
        *found,
        trial.objective,
        trial.share,
        size.without(trial.dropped),
        speeds[size.without(trial.dropped)],
        outcome.seconds if outcome else None,
        trial.status,
        trial.error,
    ]


def compared_row(c: TaskComparison) -> list[Any]:
    """Return a comparison as a row of `comparison`."""
    r = c.retention
    return [
        c.kind,
        list(c.dropped),
        c.part,
        c.task,
        c.metric,
        c.items,
        c.chance,
        r.before.value,
        r.after.value,
        r.difference.low,
        r.difference.high,
        r.within_noise,
        *c.bits_per_byte,
        *interval_columns(r.raw),
        *interval_columns(r.above_chance),
    ]


def interval_columns(estimate: Estimate) -> list[float | None]:
    """Return a number and its interval, null where there is none."""
    return [number(estimate.value), number(estimate.low), number(estimate.high)]


def number(value: float) -> float | None:
    """Return a number, null where it is NaN."""
    return None if math.isnan(value) else value
