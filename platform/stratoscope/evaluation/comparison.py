"""The comparison of two models' item scores, by a paired bootstrap over items."""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import combinations
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratoscope.evaluation.questions import LOG_SCALE, Score
from stratoscope.statistics import (
    bootstrap_p_value,
    bootstrap_weights,
    holm,
    least_bootstrap_p,
    least_sign_p,
    percentile_interval,
)

Array = NDArray[np.float64]
MetricKey = tuple[str, str]
"""Data set and metric."""
NOT_DEFINED = "not defined"


@dataclass(frozen=True)
class Resampling:
    """Settings of the bootstrap."""

    draws: int = 1000
    confidence: float = 0.95
    seed: int = 0

    @property
    def level(self) -> float:
        """Significance level that corresponds to the intervals."""
        return round(1 - self.confidence, 12)

    def stream(self, name: str) -> "Resampling":
        """Return the same settings with a seed of their own, so that data sets of equal size draw different items."""
        return replace(self, seed=(self.seed + zlib.crc32(name.encode())) % 2**32)


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; all are NaN where the value is not defined."""

    value: float
    low: float
    high: float

    @classmethod
    def of_draws(cls, draws: Array, confidence: float) -> "Estimate":
        """Return the first value with the percentile interval of the others.

        Args:
            draws: the measured value and its bootstrap draws, shape (1 + draws,). Draws that are not finite, such as a
                ratio to 0, are left out.
            confidence: coverage of the interval.
        """
        if not np.isfinite(draws[0]):
            return MISSING
        low, high = percentile_interval(draws[1:][np.isfinite(draws[1:])], confidence)
        return cls(float(draws[0]), float(low), float(high))

    @property
    def missing(self) -> bool:
        """Whether the value is not defined."""
        return bool(np.isnan(self.value))

    @property
    def contains_zero(self) -> bool:
        """Whether the interval contains 0."""
        return bool(self.low <= 0 <= self.high)

    def value_text(self, form: str) -> str:
        """Return the value as text, in a format such as `.1%`."""
        return NOT_DEFINED if self.missing else f"{self.value:{form}}"

    def interval_text(self, form: str) -> str:
        """Return the interval as text, each end in a format such as `.1%`."""
        return NOT_DEFINED if self.missing else f"{self.low:{form}} to {self.high:{form}}"

    def text(self, form: str) -> str:
        """Return the value and its interval as text."""
        return NOT_DEFINED if self.missing else f"{self.value:{form}} ({self.interval_text(form)})"


MISSING = Estimate(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, eq=False)
class ItemValues:
    """One model's items of one metric, in order of their ids. The metric is the sum of values over that of weights."""

    item_ids: tuple[str, ...]
    value: Array
    """Value of each item, shape (items,)."""
    weight: Array
    """Weight of each item, shape (items,)."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two models on the same items."""

    num_items: int
    before: Estimate
    after: Estimate
    difference: Estimate
    """after - before."""
    ratio: Estimate
    """after / before; missing where before is not above 0."""
    can_differ: bool
    """Whether enough items differ for a significant difference, at the level of the intervals."""

    @property
    def relative(self) -> Estimate:
        """The relative change, (after - before) / before."""
        return Estimate(self.ratio.value - 1, self.ratio.low - 1, self.ratio.high - 1)

    @property
    def within_noise(self) -> bool:
        """Whether the interval of the difference contains 0 or is not defined, or too few items differ for one."""
        return self.difference.missing or self.difference.contains_zero or not self.can_differ


def group_scores(scores: Iterable[Score]) -> dict[MetricKey, ItemValues]:
    """Group item scores by data set and metric, in order of item ids, so that the items of two models pair up."""
    groups: dict[MetricKey, list[Score]] = {}
    for score in sorted(scores, key=lambda s: s.item_id):
        groups.setdefault((score.dataset, score.metric), []).append(score)
    return {
        key: ItemValues(
            tuple(s.item_id for s in items), np.array([s.value for s in items]), np.array([s.weight for s in items])
        )
        for key, items in sorted(groups.items())
    }


def resample(items: ItemValues, resampling: Resampling, metric: str = "") -> Array:
    """Return a metric as measured, then of each bootstrap draw, shape (1 + draws,).

    Models with the same items draw the same ones, so their draws are paired.
    """
    num_items = len(items.item_ids)
    draws = bootstrap_weights(num_items, resampling.draws, resampling.seed)
    weights = np.vstack([np.ones((1, num_items)), draws])
    mean = (weights @ items.value) / (weights @ items.weight)
    return np.exp(mean) if metric in LOG_SCALE else np.asarray(mean)


def check_paired(before: ItemValues, after: ItemValues) -> None:
    """Refuse items that do not pair up.

    Raises:
        ValueError: there are no items, or the two models' items differ.
    """
    if before.item_ids != after.item_ids:
        shared = len(set(before.item_ids) & set(after.item_ids))
        raise ValueError(
            f"a comparison needs the same items for both models, and {shared} of {len(before.item_ids)} and "
            f"{len(after.item_ids)} are shared"
        )
    if not before.item_ids:
        raise ValueError("a comparison needs at least one item")


def ratio(part: Array, whole: Array) -> Array:
    """Return part / whole; NaN where the whole is not above 0."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def compare(before: ItemValues, after: ItemValues, resampling: Resampling, metric: str = "") -> Comparison:
    """Compare two models on the same items.

    Args:
        before: the base.
        after: the other model.
        resampling: settings of the paired bootstrap over items.
        metric: name of the metric; those of `LOG_SCALE` are exponentials of means.

    Raises:
        ValueError: there are no items, or the two models' items differ.
    """
    check_paired(before, after)
    draws = (resample(items, resampling, metric) for items in (before, after))
    return compare_draws(PairedItems.of(before.value, after.value), *draws, resampling=resampling)


@dataclass(frozen=True)
class PairedItems:
    """Number of items that two models are compared on."""

    total: int
    changed: int
    """Number of items that the models score differently; the others say nothing about a difference."""

    @classmethod
    def of(cls, before: Array, after: Array) -> "PairedItems":
        """Count the items of two models by their values, shape (items,)."""
        return cls(len(before), int((before != after).sum()))

    def __add__(self, other: "PairedItems") -> "PairedItems":
        """Return the items of two data sets together."""
        return PairedItems(self.total + other.total, self.changed + other.changed)


def compare_draws(items: PairedItems, before: Array, after: Array, *, resampling: Resampling) -> Comparison:
    """Compare two models by paired draws of one metric, as `resample` returns them."""
    estimate = partial(Estimate.of_draws, confidence=resampling.confidence)
    return Comparison(
        num_items=items.total,
        before=estimate(before),
        after=estimate(after),
        difference=estimate(after - before),
        ratio=estimate(ratio(after, before)),
        can_differ=least_sign_p(items.changed) <= resampling.level,
    )


@dataclass(frozen=True)
class PairwiseComparison:
    """A variant against another, or against the base, each by the mean over its seeds."""

    variant: str
    other: str
    dataset: str | None
    """Name of the data set; None is the mean over data sets."""
    metric: str
    seeds: int
    """Number of seeds of the variant."""
    spread: float
    """Standard deviation of the variant over its seeds; NaN for one seed."""
    other_spread: float
    comparison: Comparison
    """The variant (after) against the other (before)."""
    p_value: float
    """Two-sided bootstrap p-value of a difference of 0; not below the least sign-test p-value of the changed items."""
    p_holm: float
    """p_value corrected for testing the data sets of a metric together."""
    least_p: float
    """Least p_holm that so many items, draws and data sets allow."""


Models = Sequence[Mapping[MetricKey, ItemValues]]
"""The models of one variant, each trained with another seed."""


def compare_variants(variants: Mapping[str, Models], resampling: Resampling) -> list[PairwiseComparison]:
    """Compare each variant with every later one, metric by metric, on each data set and on the mean over data sets.

    Args:
        variants: the models of each variant, by its name, all evaluated on the same items.
        resampling: settings of the paired bootstrap over items.

    Source: ours; the p-values of data sets are corrected by Holm's method.
    """
    comparisons: list[PairwiseComparison] = []
    for pair in combinations(variants, 2):
        models = variants[pair[0]], variants[pair[1]]
        for metric in dict.fromkeys(metric for _, metric in models[0][0]):
            comparisons += _compare_metric(pair, models, metric, resampling)
    return comparisons


def _compare_metric(
    names: tuple[str, str], models: tuple[Models, Models], metric: str, resampling: Resampling
) -> Iterator[PairwiseComparison]:
    keys = [key for key in models[0][0] if key[1] == metric]
    draws = [[_resample_seeds(models, side, key, resampling) for side in (0, 1)] for key in keys]
    items = [
        PairedItems.of(*(np.mean([model[key].value for model in side], axis=0) for side in models)) for key in keys
    ]
    rows = [_pairwise((*names, *key), own, pair, resampling) for key, own, pair in zip(keys, items, draws, strict=True)]
    corrected = (holm([getattr(row, name) for row in rows]) for name in ("p_value", "least_p"))
    for row, p_holm, least_p in zip(rows, *corrected, strict=True):
        yield replace(row, p_holm=p_holm, least_p=least_p)
    if len(rows) > 1:
        means = [np.mean([pair[side] for pair in draws], axis=0) for side in (0, 1)]
        yield _pairwise((*names, None, metric), reduce(add, items), means, resampling)


def _resample_seeds(models: tuple[Models, Models], side: int, key: MetricKey, resampling: Resampling) -> Array:
    """Return the draws of each seed's model, shape (seeds, 1 + draws); data sets have draws of their own."""
    dataset, metric = key
    for model in models[side]:
        check_paired(models[0][0][key], model[key])
    return np.stack([resample(model[key], resampling.stream(dataset), metric) for model in models[side]])


def _pairwise(
    names: Sequence[str | None], items: PairedItems, draws: Sequence[Array], resampling: Resampling
) -> PairwiseComparison:
    variant, other = draws
    before, after = other.mean(axis=0), variant.mean(axis=0)
    difference = after - before
    # A metric that is not finite is no evidence of a difference.
    p_value = bootstrap_p_value(difference[1:]) if np.isfinite(difference).all() else 1.0
    p_value = max(p_value, least_sign_p(items.changed))
    labels: Any = dict(zip(("variant", "other", "dataset", "metric"), names, strict=True))
    return PairwiseComparison(
        **labels,
        seeds=len(variant),
        spread=_spread(variant[:, 0]),
        other_spread=_spread(other[:, 0]),
        comparison=compare_draws(items, before, after, resampling=resampling),
        p_value=p_value,
        p_holm=p_value,
        least_p=max(least_bootstrap_p(resampling.draws), least_sign_p(items.total)),
    )


def _spread(values: Array) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
