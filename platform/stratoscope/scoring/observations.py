"""Input of the scores: statistics by unit and layer, with the counts under each threshold in use."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.measures import EpsilonKind, Threshold, absolute_threshold, quantile_threshold
from stratoscope.statistics import Statistics, stack

Epsilons = Sequence[tuple[EpsilonKind, float]]


@dataclass(frozen=True, eq=False)
class TapUnits:
    """Statistics of the units at one tap. Resampling draws units: prompts, or merged shards of prompts."""

    statistics: Statistics
    """Statistics of shape (units, layers), without histograms."""
    thresholds: tuple[Threshold, ...]
    """Thresholds in order of the requested epsilons."""
    below: NDArray[np.int64]
    """Number of activations under each threshold, shape (units, layers, thresholds)."""

    def __getitem__(self, units: Any) -> "TapUnits":
        """Select units."""
        return TapUnits(self.statistics[units], self.thresholds, self.below[units])


@dataclass(frozen=True, eq=False)
class SpanAngle:
    """Angular distance over a span of layers, by unit."""

    mean: NDArray[np.float64]
    """Mean over the unit's prompts, shape (units,); NaN where none has an angle."""
    prompts: NDArray[np.int64]
    """Number of prompts with an angle, shape (units,)."""

    def __getitem__(self, units: Any) -> "SpanAngle":
        """Select units."""
        return SpanAngle(self.mean[units], self.prompts[units])


Spans = dict[tuple[int, int], SpanAngle]


@dataclass(frozen=True, eq=False)
class Observations:
    """Statistics of a group of prompts."""

    taps: dict[str, TapUnits]
    """Statistics by tap, all of the same units."""
    angles: Spans = field(default_factory=dict)
    """Angular distances by (start, length) of a span."""

    def __getitem__(self, units: Any) -> "Observations":
        """Select units."""
        return Observations(
            {tap: of_tap[units] for tap, of_tap in self.taps.items()},
            {span: angle[units] for span, angle in self.angles.items()},
        )

    def split(self, groups: Sequence[str]) -> dict[str, "Observations"]:
        """Return the observations of each group of units, in order of names; none where there is only one group.

        Args:
            groups: the group of each unit.
        """
        names = sorted(set(groups))
        return {name: self[np.flatnonzero(np.asarray(groups) == name)] for name in names if len(names) > 1}


def place_thresholds(
    epsilons: Epsilons, counted: Sequence[float], histogram: NDArray[np.int64]
) -> tuple[Threshold, ...]:
    """Place the requested epsilons.

    Args:
        epsilons: kind and value of each.
        counted: absolute epsilons that the statistics counted exactly.
        histogram: histogram over all prompts and layers of the tap, shape (NUM_BINS,), for quantiles.
    """
    return tuple(
        absolute_threshold(value, counted) if kind == "absolute" else quantile_threshold(value, histogram)
        for kind, value in epsilons
    )


def check_distinct(epsilons: Sequence[float], name: str, counted: Sequence[float], name_of_counted: str) -> None:
    """Check that no two absolute epsilons are placed at the same threshold.

    Args:
        epsilons: the epsilons.
        name: name of their option, for the message.
        counted: absolute epsilons that the statistics count exactly.
        name_of_counted: name of their option.

    Raises:
        ValueError: two are.
    """
    by_threshold: dict[float, float] = {}
    for epsilon in epsilons:
        placed = absolute_threshold(epsilon, counted).epsilon
        if placed in by_threshold:
            raise ValueError(
                f"{name} {by_threshold[placed]:g} and {epsilon:g} are both placed at {placed:.4g}, an edge of the "
                f"histogram's bins; leave one out, or have both counted exactly by {name_of_counted}"
            )
        by_threshold[placed] = epsilon


def count_units(statistics: Statistics, thresholds: tuple[Threshold, ...]) -> TapUnits:
    """Count the activations under each threshold and drop the histograms.

    Args:
        statistics: statistics of shape (units, layers).
        thresholds: the thresholds.
    """
    below = np.stack([t.below(statistics) for t in thresholds], axis=-1)
    return TapUnits(statistics.without_histogram(), thresholds, below)


def observe_tap(statistics: Statistics, epsilons: Epsilons) -> TapUnits:
    """Return the units of a tap from statistics of shape (units, layers) that fit into memory."""
    pooled = statistics.histogram.reshape(-1, statistics.histogram.shape[-1]).sum(axis=0)
    return count_units(statistics, place_thresholds(epsilons, statistics.epsilons, pooled))


def join_units(parts: Sequence[TapUnits]) -> TapUnits:
    """Concatenate units that were counted under the same thresholds."""
    below = np.concatenate([part.below for part in parts])
    return TapUnits(stack([part.statistics for part in parts]), parts[0].thresholds, below)
