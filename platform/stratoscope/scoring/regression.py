"""Key metrics of a run, and whether one got worse since an earlier run by more than its threshold and noise."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

MetricKind = Literal[
    "retention", "auroc", "hallucination_rate", "gain", "seed_spread", "error", "failures", "order", "stability", "fact"
]
"""Kinds of key metrics. Those before failures have a threshold of their name in the audit's configuration."""
ANY_INCREASE: frozenset[MetricKind] = frozenset({"failures"})
"""Kinds of which any increase is a regression."""
WITHOUT_THRESHOLD: frozenset[MetricKind] = frozenset({"order", "stability", "fact"})
"""Kinds that never alert by themselves. Order, the layers' rank correlation with an earlier run, is already a
comparison."""
HIGHER_IS_BETTER = frozenset({"retention", "auroc", "gain"})
RELATIVE = frozenset({"seed_spread", "error"})
"""Kinds whose change is relative to the earlier value."""


@dataclass(frozen=True)
class KeyMetric:
    """A number that summarizes a part of a run."""

    name: str
    """Name of the metric, the same in every run."""
    value: float
    kind: MetricKind = "fact"
    """Kind of the metric, which selects its threshold; a fact never alerts."""
    low: float | None = None
    """Lower end of the interval, where the run has one."""
    high: float | None = None
    """Upper end of the interval, where the run has one."""
    instead_of: str | None = None
    """Name of the metric that the run lacks for a reason, and that this one stands for."""

    def loss(self, before: "KeyMetric") -> float:
        """Return by how much the metric got worse, in the unit of its threshold; negative if it improved."""
        change = (self.value - before.value) * (-1 if self.kind in HIGHER_IS_BETTER else 1)
        return change / max(abs(before.value), 1e-12) if self.kind in RELATIVE else change

    def within_noise(self, before: "KeyMetric") -> bool:
        """Return whether the intervals of two independent samples, where both have one, explain the change."""
        halves = [(m.high - m.low) / 2 for m in (self, before) if m.low is not None and m.high is not None]
        return len(halves) == 2 and abs(self.value - before.value) <= math.hypot(*halves)


@dataclass(frozen=True)
class MetricComparison:
    """A key metric and its value in an earlier run."""

    metric: KeyMetric
    before: KeyMetric | None
    threshold: float | None
    """Threshold of the loss; None where the metric has none, or where the settings of the two runs differ."""

    @property
    def loss(self) -> float | None:
        """Loss since the earlier run, in the unit of the threshold."""
        return None if self.before is None or self.threshold is None else self.metric.loss(self.before)

    @property
    def regressed(self) -> bool:
        """Whether the loss exceeds the threshold, and the change exceeds the noise."""
        if self.before is None or self.threshold is None or self.loss is None:
            return False
        return self.loss > self.threshold and not self.metric.within_noise(self.before)

    @property
    def text(self) -> str:
        """The change in words."""
        before = self.before.value if self.before else math.nan
        return f"{self.metric.name}: {before:.4g} -> {self.metric.value:.4g}"


def finite_metrics(metrics: Iterable[KeyMetric]) -> Iterator[KeyMetric]:
    """Yield the metrics with a finite value; a data set without answers has no rate, a diverged forecaster no error."""
    for metric in metrics:
        if metric.value is not None and math.isfinite(metric.value):
            ends = (metric.low, metric.high)
            bounded = all(end is not None and math.isfinite(end) for end in ends)
            yield metric if bounded else replace(metric, low=None, high=None)


def missing_metrics(now: Iterable[KeyMetric], before: Mapping[str, KeyMetric]) -> list[KeyMetric]:
    """Return the metrics of an earlier run that a later one lacks without a reason."""
    names = {name for metric in now for name in (metric.name, metric.instead_of)}
    return [metric for name, metric in before.items() if name not in names]
