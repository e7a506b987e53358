"""What scores are computed from: statistics by unit and layer, with the counts under each threshold in use."""

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
    """What was seen at one tap. A unit is what resampling draws: a prompt, or a shard of prompts merged."""

    statistics: Statistics
    """Shape (units, layers); without histograms, once the counts under the thresholds are taken."""
    thresholds: tuple[Threshold, ...]
    """In order of the epsilons that were asked for."""
    below: NDArray[np.int64]
    """Activations under each threshold, shape (units, layers, thresholds)."""

    def __getitem__(self, units: Any) -> "TapUnits":
        """Select units."""
        return TapUnits(self.statistics[units], self.thresholds, self.below[units])


@dataclass(frozen=True, eq=False)
class SpanAngle:
    """Angular distance over a span of layers, by unit."""

    mean: NDArray[np.float64]
    """Over the unit's prompts, shape (units,); NaN where none has one."""
    prompts: NDArray[np.int64]
    """Prompts that have one, shape (units,)."""

    def __getitem__(self, units: Any) -> "SpanAngle":
        """Select units."""
        return SpanAngle(self.mean[units], self.prompts[units])


Spans = dict[tuple[int, int], SpanAngle]


@dataclass(frozen=True, eq=False)
class Observations:
    """What was seen of a group of prompts."""

    taps: dict[str, TapUnits]
    """By tap, all of the same units."""
    angles: Spans = field(default_factory=dict)
    """By (start, length) of a span."""

    def __getitem__(self, units: Any) -> "Observations":
        """Select units."""
        return Observations(
            {tap: seen[units] for tap, seen in self.taps.items()},
            {span: angle[units] for span, angle in self.angles.items()},
        )


def place_thresholds(
    epsilons: Epsilons, counted: Sequence[float], histogram: NDArray[np.int64]
) -> tuple[Threshold, ...]:
    """Place each epsilon that is asked for.

    Args:
        epsilons: kind and value.
        counted: absolute epsilons that the statistics counted exactly.
        histogram: of all prompts and layers of the tap, shape (NUM_BINS,); quantiles are taken of it.
    """
    return tuple(
        absolute_threshold(value, counted) if kind == "absolute" else quantile_threshold(value, histogram)
        for kind, value in epsilons
    )


def count_units(statistics: Statistics, thresholds: tuple[Threshold, ...]) -> TapUnits:
    """Take the counts under each threshold and let go of the histograms.

    Args:
        statistics: shape (units, layers).
        thresholds: where to count.
    """
    below = np.stack([t.below(statistics) for t in thresholds], axis=-1)
    return TapUnits(statistics.without_histogram(), thresholds, below)


def observe_tap(statistics: Statistics, epsilons: Epsilons) -> TapUnits:
    """Return what was seen at a tap, from statistics of shape (units, layers) that fit into memory."""
    pooled = statistics.histogram.reshape(-1, statistics.histogram.shape[-1]).sum(axis=0)
    return count_units(statistics, place_thresholds(epsilons, statistics.epsilons, pooled))


def join_units(parts: Sequence[TapUnits]) -> TapUnits:
    """Join units that were counted under the same thresholds."""
    below = np.concatenate([part.below for part in parts])
    return TapUnits(stack([part.statistics for part in parts]), parts[0].thresholds, below)
