"""Models before and after training, item by item, with paired intervals."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from stratoscope.evaluation import Estimate, Resampling, Score
from stratoscope.evaluation.questions import LOG_SCALE
from stratoscope.statistics import bootstrap_p_value, bootstrap_weights, holm, percentile_interval

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
class PairwiseComparison:
    """A variant against another, or against the base, each by the mean over its seeds."""

    variant: str
    other: str
    dataset: str | None
    """None is the mean over data sets."""
    metric: str
    n: int
    seeds: int
    mean: float
    spread: float
    other_mean: float
    other_spread: float
    difference: Estimate
    relative: Estimate
    """The difference by the other's mean."""
    p_value: float
    """Two-sided, that the difference is 0."""
    p_holm: float
    """The same, corrected for the data sets of a metric being tested together."""


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


Models = Sequence[Mapping[Key, Measured]]
"""One variant's, each trained with another seed."""


def compare(variants: Mapping[str, Models], how: Resampling) -> list[PairwiseComparison]:
    """Compare each variant with every later one, on each data set and on their mean, metric by metric.

    Args:
        variants: by name; all were judged on the same items.
        how: intervals and p-values are made.
    """
    found: list[PairwiseComparison] = []
    for (name, ones), (other, others) in combinations(variants.items(), 2):
        for metric in dict.fromkeys(metric for _, metric in ones[0]):
            keys = [key for key in ones[0] if key[1] == metric]
            drawn = [(_drawn(ones, key, how), _drawn(others, key, how)) for key in keys]
            own = [
                _versus((name, other), key, len(ones[0][key].item_ids), both, how)
                for key, both in zip(keys, drawn, strict=True)
            ]
            corrected = holm([v.p_value for v in own])
            found += [replace(v, p_holm=p) for v, p in zip(own, corrected, strict=True)]
            if len(own) > 1:
                one, another = (np.mean([both[side] for both in drawn], axis=0) for side in (0, 1))
                found.append(_versus((name, other), (None, metric), sum(v.n for v in own), (one, another), how))
    return found


def _drawn(models: Models, key: Key, how: Resampling) -> Array:
    """Return a metric of each seed's model, as it was and as drawn, shape (seeds, 1 + draws)."""
    first = models[0][key]
    draws = _weights(first, key, how)
    return np.stack([_metric(_same(first, model[key]), key, draws) for model in models])


def _versus(
    names: tuple[str, str], key: tuple[str | None, str], n: int, drawn: tuple[Array, Array], how: Resampling
) -> PairwiseComparison:
    one, another = drawn
    difference = one.mean(axis=0) - another.mean(axis=0)
    p_value = bootstrap_p_value(difference[1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = difference / another.mean(axis=0)
    return PairwiseComparison(
        *names,
        *key,
        n=n,
        seeds=len(one),
        mean=float(one[:, 0].mean()),
        spread=_spread(one[:, 0]),
        other_mean=float(another[:, 0].mean()),
        other_spread=_spread(another[:, 0]),
        difference=estimate(difference, how),
        relative=estimate(relative, how),
        p_value=p_value,
        p_holm=p_value,
    )


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
