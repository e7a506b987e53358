"""Reduction of a batch's activations to sufficient statistics per prompt, on the device that holds them.

Everything here is a pure function without a transfer or a synchronisation, and its memory is a few copies of one
activation. `reduce_tokens` does the work that needs the activations themselves. `merge_tokens` does the rest once for
all layers and taps, into one float64 row per prompt (`RowLayout`), in which counts stay exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from stratoscope.activations.segments import Segments
from stratoscope.statistics import histogram

_SIGN_FREE = 0x7FFFFFFF
LOWEST_KEY = histogram.FIRST_KEY - 1
"""Stands for all keys below the histogram's range."""
HIGHEST_KEY = histogram.FIRST_KEY + histogram.NUM_REGULAR
"""Stands for all keys above it."""


@dataclass(frozen=True)
class Bins:
    """Bins that hold the histogram and the exact counts under each epsilon at once.

    A number's key is its sign-free float32 bits, shifted and clamped to the range of the histogram. Each edge (the
    smallest number above zero, and every epsilon) moves all numbers at or above it up by one bin, so the bin that holds
    an edge is split there. One count of these fine bins then gives histogram, zeros and counts under epsilon, exactly.
    """

    edges: tuple[int, ...]
    """Sign-free bits of the epsilons, ascending."""
    num_fine: int
    """Number of fine bins."""
    bin_of_fine: Tensor
    """Histogram bin of every fine bin, shape (num_fine,)."""
    first_above: tuple[int, ...]
    """First fine bin at or above each epsilon."""

    @classmethod
    def build(cls, epsilons: tuple[float, ...], device: torch.device) -> "Bins":
        """Lay out the bins for absolute thresholds, ascending and distinct as float32."""
        edges = [int(np.float32(epsilon).view(np.int32)) for epsilon in epsilons]
        keys = np.clip(np.array([1, *edges]) >> histogram.KEY_SHIFT, LOWEST_KEY, HIGHEST_KEY) - LOWEST_KEY
        first_above = keys + np.arange(len(keys)) + 1
        num_fine = HIGHEST_KEY - LOWEST_KEY + 1 + len(keys)
        fine = np.arange(num_fine)
        key = fine - np.searchsorted(first_above, fine, side="right") + LOWEST_KEY
        bins = histogram.bin_of_key(key)
        bins[0] = histogram.ZEROS
        return cls(tuple(edges), num_fine, torch.from_numpy(bins).to(device), tuple(first_above[1:].tolist()))

    def count(self, x: Tensor, segments: Segments) -> Tensor:
        """Count magnitudes of (K, T, D) float32, all finite, per prompt; returns (K, B, num_fine), int64."""
        kinds, num_segments = x.shape[0], len(segments)
        bits = x.view(torch.int32) & _SIGN_FREE
        index = (bits >> histogram.KEY_SHIFT).clamp_(LOWEST_KEY, HIGHEST_KEY)
        first = torch.arange(kinds, device=x.device).unsqueeze(1) * num_segments + segments.rows
        index += (first * self.num_fine - LOWEST_KEY).to(torch.int32).unsqueeze(2)
        for edge in self.edges:
            # (edge - 1 - bits) is negative exactly where bits >= edge; the shift turns it into -1 there and 0
            # elsewhere.
            index -= (edge - 1 - bits).bitwise_right_shift_(31)
        index += bits.clamp_(max=1)
        fine = _count(index.view(-1), kinds * num_segments * self.num_fine)
        return fine.view(kinds, num_segments, self.num_fine)

    def split(self, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Turn fine bins (..., num_fine) into a histogram (..., NUM_BINS) and counts under epsilons (..., E).

        The histogram keeps the number format of the fine bins, because it is the largest tensor here.
        """
        counts = fine.new_zeros((*fine.shape[:-1], histogram.NUM_BINS)).index_add_(-1, self.bin_of_fine, fine)
        below = [fine[..., :first].sum(dim=-1) for first in self.first_above]
        return counts, torch.stack(below, dim=-1) if below else fine.new_zeros((*fine.shape[:-1], 0))


class DeviceBins:
    """Bins of the same thresholds on every device that needs them.

    Args:
        epsilons: absolute thresholds, ascending and distinct as float32.
    """

    def __init__(self, epsilons: tuple[float, ...]) -> None:
        self.epsilons = epsilons
        self._on: dict[torch.device, Bins] = {}

    @property
    def devices(self) -> frozenset[torch.device]:
        """Devices that hold bins."""
        return frozenset(self._on)

    def on(self, device: torch.device) -> Bins:
        """Return the bins on a device."""
        if device not in self._on:
            self._on[device] = Bins.build(self.epsilons, device)
        return self._on[device]


def _count(index: Tensor, size: int) -> Tensor:
    if index.device.type == "cpu":
        return torch.bincount(index, minlength=size)
    # bincount would wait for the device to learn the largest index.
    ones = torch.ones((), dtype=torch.int64, device=index.device).expand(index.numel())
    return torch.zeros(size, dtype=torch.int64, device=index.device).scatter_add_(0, index.long(), ones)


@dataclass(frozen=True)
class RowLayout:
    """The columns of a packed row: mean, m2, pooled variance, histogram, non-finite count, counts under epsilons."""

    num_epsilons: int

    @property
    def histogram(self) -> slice:
        """Columns of the histogram."""
        return slice(3, 3 + histogram.NUM_BINS)

    @property
    def nonfinite(self) -> int:
        """Column of the non-finite count."""
        return 3 + histogram.NUM_BINS

    @property
    def below(self) -> slice:
        """Columns of the counts under each epsilon."""
        return slice(self.nonfinite + 1, self.nonfinite + 1 + self.num_epsilons)


@dataclass(frozen=True)
class TokenSums:
    """Reductions of K activations of the same T tokens of B prompts, computed while the activations are in memory."""

    width: Tensor
    """Number of activations of a token, shape (K,)."""
    count: Tensor
    """Number of finite activations of each token, shape (K, T)."""
    mean: Tensor
    """Their mean, shape (K, T)."""
    m2: Tensor
    """Sum of their squared deviations from the mean, shape (K, T)."""
    pooled_variance: Tensor
    """Variance over the width of each prompt's token-mean vector, shape (K, B)."""
    fine: Tensor
    """Counts of magnitudes by fine bin, shape (K, B, num_fine)."""

    @classmethod
    def zeros(cls, kinds: int, segments: Segments, bins: Bins) -> "TokenSums":
        """Return empty sums in float64, with room for all activations of a pass.

        They are allocated in advance: small tensors that stay, allocated between large ones that are freed, would keep
        the allocator from reusing the memory of the large ones.
        """
        num_tokens, num_segments, device = len(segments.rows), len(segments), segments.rows.device
        per_token = torch.zeros(3, kinds, num_tokens, dtype=torch.float64, device=device)
        return cls(
            width=torch.zeros(kinds, dtype=torch.int64, device=device),
            count=per_token[0],
            mean=per_token[1],
            m2=per_token[2],
            pooled_variance=torch.full((kinds, num_segments), torch.nan, dtype=torch.float64, device=device),
            fine=torch.zeros(kinds, num_segments, bins.num_fine, dtype=torch.int64, device=device),
        )

    def put(self, places: Sequence[int], part: "TokenSums") -> None:
        """Store the reductions of some activations at their places."""
        chosen = list(places)
        for field in fields(self):
            sums = getattr(self, field.name)
            sums[chosen] = getattr(part, field.name).to(sums)


def reduce_tokens(x: Tensor, segments: Segments, bins: Bins, *, careful: bool = False) -> TokenSums:
    """Reduce activations of a batch's real tokens.

    Args:
        x: K activations of the same width, such as several layers' or taps', shape (K, T, D), any floating dtype.
        segments: which token belongs to which prompt.
        bins: where to count magnitudes.
        careful: leave out non-finite values and compute in float64. Otherwise, they lead to non-finite moments.
    """
    x = x.float()
    return _reduce_carefully(x, segments, bins) if careful else _reduce(x, segments, bins)


def _reduce(x: Tensor, segments: Segments, bins: Bins) -> TokenSums:
    mean = x.mean(dim=2, keepdim=True)
    pooled = segments.sum(x).double() / segments.lengths.unsqueeze(1)
    pooled -= pooled.mean(dim=2, keepdim=True)
    return TokenSums(
        width=segments.lengths.new_full(x.shape[:1], x.shape[2]),
        count=x.new_full(x.shape[:2], x.shape[2]),
        mean=mean.squeeze(2),
        m2=torch.linalg.vector_norm(x - mean, dim=2).square(),
        pooled_variance=pooled.square().sum(dim=2) / (x.shape[2] - 1),
        fine=bins.count(x, segments),
    )


def _reduce_carefully(x: Tensor, segments: Segments, bins: Bins) -> TokenSums:
    finite = x.isfinite()
    x = torch.where(finite, x, 0.0)
    fine = bins.count(x, segments)
    # Non-finite values were counted as zeros.
    fine[:, :, 0] -= segments.sum((~finite).sum(dim=2))
    wide = x.double()
    count = finite.double().sum(dim=2)
    mean = wide.sum(dim=2) / count.clamp(min=1)
    deviation = torch.where(finite, wide - mean.unsqueeze(2), 0.0)
    known = segments.sum(finite.double())
    pooled = segments.sum(wide) / known
    # A unit that was never finite has no mean, and a prompt with fewer than two units no variance.
    has_mean = known > 0
    units = has_mean.sum(dim=2)
    centre = torch.where(has_mean, pooled, 0.0).sum(dim=2) / units
    spread = torch.where(has_mean, pooled - centre.unsqueeze(2), 0.0).square().sum(dim=2)
    return TokenSums(
        width=segments.lengths.new_full(x.shape[:1], x.shape[2]),
        count=count,
        mean=mean,
        m2=deviation.square().sum(dim=2),
        pooled_variance=torch.where(units > 1, spread / (units - 1).clamp(min=1), torch.nan),
        fine=fine,
    )


def merge_tokens(sums: TokenSums, segments: Segments, bins: Bins) -> Tensor:
    """Merge tokens to prompts, for all layers and taps at once, in float64.

    Moments are centred on each token's own mean before they are merged, so a large common offset costs no precision.

    Args:
        sums: reductions of K activations of the batch, in float64.
        segments: which token belongs to which prompt.
        bins: where magnitudes were counted.

    Returns:
        Packed rows, shape (B, K, columns of `RowLayout`), float64.

    Source: Chan, Golub and LeVeque, 1979, for the merging of moments.
    """
    total = segments.sum(sums.count)
    mean = segments.sum(sums.count * sums.mean) / total.clamp(min=1)
    m2 = segments.sum(sums.m2 + sums.count * (sums.mean - segments.spread(mean)).square())
    counts, below = bins.split(sums.fine)
    nonfinite = sums.width.unsqueeze(1) * segments.lengths - total
    moments = torch.stack([mean, m2, sums.pooled_variance], dim=2)
    return torch.cat([moments, counts.double(), nonfinite.unsqueeze(2), below.double()], dim=2).transpose(0, 1)


def token_cosine(a: Tensor, b: Tensor, norm_a: Tensor, norm_b: Tensor) -> Tensor:
    """Return the cosine of each pair of rows, (T, D) and (T, D) to (T,); 0 where a row is zero."""
    scale = (norm_a * norm_b).clamp(min=torch.finfo(torch.float32).tiny)
    cosine: Tensor = torch.linalg.vecdot(a, b) / scale
    return cosine
