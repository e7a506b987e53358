"""Models before and after training, item by item, with paired intervals."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from stratoscope.evaluation import Estimate, Resampling, Score
from stratoscope.evaluation.questions import LOG_SCALE
from stratoscope.statistics import bootstrap_weights, percentile_interval

Array = NDArray[np.float64]
Key = tuple[str, str]
"""Data set and metric."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One model's items of one metric, in order of their ids."""

    item_ids: tuple[str, ...]
    value: Array
    weight: Array


@dataclass(frozen=True)
class Change:
    """What a metric came to."""

    n: int
    before: float
    after: float
    difference: Estimate
    retention: Estimate


@dataclass(frozen=True)
class Versus:
    """Two variants, each by the mean over its seeds."""

    n: int
    mean: float
    spread: float
    other_mean: float
    other_spread: float
    difference: Estimate


def gather(scores: Iterable[Score]) -> dict[Key, Measured]:
    """Gather scores by data set and metric."""
    found: dict[Key, list[Score]] = {}
    for score in scores:
        found.setdefault((score.dataset, score.metric), []).append(score)
    gathered = {}
    for key in sorted(found):
        items = sorted(found[key], key=lambda s: s.item_id)
        gathered[key] = Measured(
            tuple(s.item_id for s in items), np.array([s.value for s in items]), np.array([s.weight for s in items])
        )
    return gathered


def change(before: Measured, after: Measured, key: Key, how: Resampling) -> Change:
    """Compare two models on the same items.

    Raises:
        ValueError: the items are not the same.
    """
    draws = _weights(before, key, how)
    start, end = _metric(before, key, draws), _metric(_same(before, after), key, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = end / start
    return Change(
        len(before.item_ids),
        float(start[0]),
        float(end[0]),
        estimate(end - start, how),
        estimate(share, how),
    )


def versus(ones: Sequence[Measured], others: Sequence[Measured], key: Key, how: Resampling) -> tuple[Versus, Array]:
    """Compare two variants, each trained with several seeds, on the same items; return the draws of it too."""
    draws = _weights(ones[0], key, how)
    one, other = (np.stack([_metric(_same(ones[0], m), key, draws) for m in models]) for models in (ones, others))
    difference = one.mean(axis=0) - other.mean(axis=0)
    return (
        Versus(
            len(ones[0].item_ids),
            float(one[:, 0].mean()),
            _spread(one[:, 0]),
            float(other[:, 0].mean()),
            _spread(other[:, 0]),
            estimate(difference, how),
        ),
        difference,
    )


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of variants that are compared, the first of the run before the others."""
    return list(combinations(dict.fromkeys(names), 2))


def estimate(draws: Array, how: Resampling) -> Estimate:
    """Return the first of several draws with the percentile interval of the others."""
    low, high = percentile_interval(draws[1:], how.confidence)
    return Estimate(float(draws[0]), float(low), float(high))


def _weights(measured: Measured, key: Key, how: Resampling) -> Array:
    """Return how often each item counts: once, then as drawn; data sets have draws of their own."""
    seed = (how.seed + zlib.crc32(key[0].encode())) % 2**32
    num = len(measured.item_ids)
    return np.concatenate([np.ones((1, num)), bootstrap_weights(num, how.draws, seed)])


def _metric(measured: Measured, key: Key, draws: Array) -> Array:
    mean = (draws @ measured.value) / (draws @ measured.weight)
    return np.exp(mean) if key[1] in LOG_SCALE else np.asarray(mean)


def _same(one: Measured, other: Measured) -> Measured:
    if one.item_ids != other.item_ids:
        raise ValueError("the models were judged on different items")
    return other


def _spread(values: Array) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
