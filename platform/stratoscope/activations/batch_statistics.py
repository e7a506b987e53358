"""The statistics of one batch, and the sums on the host that they are computed from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stratoscope.models import to_device
from stratoscope.statistics import Statistics


@dataclass(frozen=True, eq=False)
class BatchStatistics:
    """Statistics of one batch."""

    statistics: Statistics
    """Shape (segments, layers, taps); a segment is a prompt, unless parts of rows were asked for. Histograms have no
    bins where they were summed by group."""
    span_cosine: NDArray[np.float64]
    """Cosine between the last token's states before and after each span of layers, shape (segments, spans)."""
    group_histograms: NDArray[np.int64] | None = None
    """Histograms summed by group, shape (groups, layers, taps, NUM_BINS); None where no groups were given."""


@dataclass(frozen=True)
class SegmentGroups:
    """Groups of a batch's segments, by which histograms are summed on the device."""

    of_segment: tuple[int, ...]
    """Group of each segment, numbered from 0."""
    number: int
    """Number of groups."""

    def take(self, segments: Sequence[int]) -> "SegmentGroups":
        """Return the groups of some segments, with the same number of groups."""
        return SegmentGroups(tuple(self.of_segment[i] for i in segments), self.number)

    def sum(self, histograms: Tensor) -> Tensor:
        """Sum histograms of segments, (B, L, K, bins), by group: (groups, L, K, bins), int64."""
        if self.number == 1:
            return histograms.sum(dim=0, keepdim=True)
        sums = histograms.new_zeros((self.number, *histograms.shape[1:]), dtype=torch.int64)
        index = to_device(torch.tensor(self.of_segment, dtype=torch.int64), histograms.device)
        for layer in range(histograms.shape[1]):  # a copy in 64 bits of all layers would need much memory
            # The order of additions differs between runs, but sums of integers do not depend on it.
            sums[:, layer].index_add_(0, index, histograms[:, layer].long())
        return sums


@dataclass(frozen=True, eq=False)
class ReducedBatch:
    """A batch's sums on the host: B segments, L layers, K taps."""

    moments: NDArray[np.float64]
    """Mean, squared deviations and pooled variance, shape (B, L, K, 3)."""
    histogram: NDArray[Any]
    """Integers, shape (B, L, K, NUM_BINS), or (groups, L, K, NUM_BINS) if they were summed by group."""
    below: NDArray[np.int64]
    """Shape (B, L, K, epsilons)."""
    count: NDArray[np.int64]
    """Finite activations, shape (B, L, K)."""
    nonfinite: NDArray[np.int64]
    """Shape (B, L, K)."""
    cosine: NDArray[np.float64]
    """Shape (B, L)."""
    spans: NDArray[np.float64]
    """Shape (B, spans)."""

    def is_finite(self, present: NDArray[np.bool_], runs: NDArray[np.bool_]) -> bool:
        """Return whether all sums of what was read are finite.

        Args:
            present: taps that have activations, shape (L, K).
            runs: layers that run, shape (L,).
        """
        return bool(np.isfinite(self.moments[:, present]).all() and np.isfinite(self.cosine[:, runs]).all())

    def unpack(
        self,
        epsilons: tuple[float, ...],
        lengths: NDArray[np.int64],
        without_mean: NDArray[np.bool_],
        *,
        grouped: bool,
    ) -> BatchStatistics:
        """Return the statistics of the batch.

        Args:
            epsilons: thresholds of `below`.
            lengths: tokens of each segment, shape (B,).
            without_mean: layers and taps whose tokens have no common mean vector and hence no pooled variance, shape
                (L, K).
            grouped: whether the histogram is summed by group.
        """
        shape = self.nonfinite.shape
        mean, m2, pooled_variance = np.moveaxis(self.moments, -1, 0)
        pooled_variance = np.where(without_mean, np.nan, pooled_variance)
        tokens = np.broadcast_to(lengths[:, None, None], shape).astype(np.int64)
        cosine = np.broadcast_to(self.cosine[:, :, None], shape)
        statistics = Statistics(
            epsilons=epsilons,
            prompts=(~np.isnan(pooled_variance)).astype(np.int64),
            tokens=tokens,
            count=self.count,
            mean=mean,
            m2=m2,
            pooled_variance=pooled_variance,
            histogram=np.zeros((*shape, 0), np.int64) if grouped else self.histogram,
            below=self.below,
            cosine=cosine,
            cosine_tokens=np.where(np.isnan(cosine), 0, tokens),
            nonfinite=self.nonfinite,
        )
        return BatchStatistics(statistics, self.spans, self.histogram if grouped else None)


def sum_histograms(histograms: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    """Sum the histograms of parts of a batch, all of the same groups; None where the parts have no groups."""
    known = [histogram for histogram in histograms if histogram is not None]
    return np.stack(known).sum(axis=0) if known else None
