"""Sufficient statistics of activations, their merging, their histogram and resampling. Needs numpy alone."""

from stratoscope.statistics.correlation import spearman
from stratoscope.statistics.resampling import (
    Resampled,
    bootstrap_weights,
    half_weights,
    percentile_interval,
    resample,
)
from stratoscope.statistics.sufficient import Statistics, merge, merge_all, stack, weighted_mean

__all__ = [
    "Resampled",
    "Statistics",
    "bootstrap_weights",
    "half_weights",
    "merge",
    "merge_all",
    "percentile_interval",
    "resample",
    "spearman",
    "stack",
    "weighted_mean",
]
