"""Sufficient statistics of activations, resampling and statistical tests; requires only numpy."""

from stratoscope.statistics.correlation import spearman
from stratoscope.statistics.least_p import least_bootstrap_p, least_rank_p, least_sign_p, not_shown
from stratoscope.statistics.multiple import bootstrap_p_value, holm
from stratoscope.statistics.randomization import Design, MaxT, max_t
from stratoscope.statistics.resampling import (
    Resampled,
    bootstrap_weights,
    half_weights,
    percentile_interval,
    resample,
)
from stratoscope.statistics.sufficient import Statistics, merge, merge_all, stack, weighted_mean

__all__ = [
    "Design",
    "MaxT",
    "Resampled",
    "Statistics",
    "bootstrap_p_value",
    "bootstrap_weights",
    "half_weights",
    "holm",
    "least_bootstrap_p",
    "least_rank_p",
    "least_sign_p",
    "max_t",
    "merge",
    "merge_all",
    "not_shown",
    "percentile_interval",
    "resample",
    "spearman",
    "stack",
    "weighted_mean",
]
