"""The registry of layer metrics: each is one pure function from measures to a score per layer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stratoscope.extensions import Registry

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Measures:
    """Input of the metrics; arrays of shape (..., layers), whose leading axes are resamples."""

    variance: Scores
    sparsity: Scores
    cosine: Scores
    """Cosine between a layer's input and output."""
    angle: Scores
    """Least mean angular distance over the spans that contain a layer; NaN where no spans were measured."""
    weight_norm: Scores
    """Frobenius norm of a layer's parameters, shape (layers,)."""
    seed: int
    """Seed of the random metric."""


@dataclass(frozen=True)
class Metric:
    """A named score per layer."""

    name: str
    compute: Callable[[Measures], Scores]
    per_tap: bool = False
    """Whether the metric is computed for each tap, or once for a layer."""
    uses_variance: bool = False
    uses_sparsity: bool = False
    from_prompts: bool = True
    """Whether the metric depends on the prompts, so that resampling them gives its uncertainty."""
    high_is_important: bool = True
    """Whether a high score marks an important layer."""


def avss(m: Measures) -> Scores:
    """Activation variance over activation sparsity. Source: arXiv 2411.02117, AVSS."""
    return m.variance / m.sparsity


def variance(m: Measures) -> Scores:
    """Activation variance alone. Source: arXiv 2411.02117, sigma squared."""
    return m.variance


def sparsity(m: Measures) -> Scores:
    """Activation sparsity alone; a sparse layer counts as redundant. Source: arXiv 2411.02117, S."""
    return m.sparsity


def block_influence(m: Measures) -> Scores:
    """One minus the cosine between a layer's input and output. Source: arXiv 2403.03853 (ShortGPT), BI."""
    return 1 - m.cosine


def angular_distance(m: Measures) -> Scores:
    """Least mean angular distance of a span that contains the layer: the n lowest layers are the best span of n.

    Source: arXiv 2403.17887 for the distance of a span; the reading per layer is ours.
    """
    return m.angle


def magnitude(m: Measures) -> Scores:
    """Frobenius norm of a layer's weights."""
    return m.weight_norm


def random(m: Measures) -> Scores:
    """A seeded random order, the baseline of every other metric."""
    first: Scores = random_scores(len(m.weight_norm), 1, m.seed)[0]
    return first


def last(m: Measures) -> Scores:
    """Distance to the end of the stack: the last layers rank lowest."""
    num_layers = len(m.weight_norm)
    return np.arange(num_layers, 0, -1, dtype=np.float64)


def random_scores(num_layers: int, draws: int, seed: int) -> Scores:
    """Return seeded random scores in [0, 1), shape (draws, num_layers); the first draw is the metric `random`."""
    scores: Scores = np.random.default_rng(seed).random((draws, num_layers))
    return scores


_OWN = (
    Metric("avss", avss, per_tap=True, uses_variance=True, uses_sparsity=True),
    Metric("variance", variance, per_tap=True, uses_variance=True),
    Metric("sparsity", sparsity, per_tap=True, uses_sparsity=True, high_is_important=False),
    Metric("block_influence", block_influence),
    Metric("angular_distance", angular_distance),
    Metric("magnitude", magnitude, from_prompts=False),
    Metric("random", random, from_prompts=False),
    Metric("last", last, from_prompts=False),
)
METRICS = Registry({metric.name: metric for metric in _OWN}, "stratoscope.metrics", Metric)
