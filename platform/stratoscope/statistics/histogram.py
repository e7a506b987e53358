"""Exactly mergeable histograms of magnitudes, whose bins are bit patterns.

The bin of a float32 magnitude is given by its exponent and the top three bits of its mantissa, with eight bins per
octave. No logarithm is taken, so bins do not depend on a mathematics library, and counts add as integers.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BINS_PER_OCTAVE: Final = 8
LOWEST_EXPONENT: Final = -40
HIGHEST_EXPONENT: Final = 24
NUM_REGULAR: Final = (HIGHEST_EXPONENT - LOWEST_EXPONENT) * BINS_PER_OCTAVE
ZEROS: Final = 0
UNDERFLOW: Final = 1
FIRST_REGULAR: Final = 2
OVERFLOW: Final = FIRST_REGULAR + NUM_REGULAR
NUM_BINS: Final = OVERFLOW + 1

# A float32's sign-free bits, shifted right by this, are its exponent and the top three mantissa bits.
KEY_SHIFT: Final = 20
FIRST_KEY: Final = (127 + LOWEST_EXPONENT) * BINS_PER_OCTAVE


def lower_edges() -> NDArray[np.float64]:
    """Return the smallest magnitude of every bin, shape (NUM_BINS,); bins are half-open and include it."""
    octaves = 2.0 ** np.arange(LOWEST_EXPONENT, HIGHEST_EXPONENT)
    mantissas = 1.0 + np.arange(BINS_PER_OCTAVE) / BINS_PER_OCTAVE
    regular = (octaves[:, None] * mantissas[None, :]).ravel()
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    return np.concatenate([[0.0, smallest], regular, [2.0**HIGHEST_EXPONENT]])


def bin_of_key(key: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the bin of every shifted bit pattern of a finite, non-zero number."""
    return np.clip(np.asarray(key, np.int64) - FIRST_KEY + FIRST_REGULAR, UNDERFLOW, OVERFLOW)


def bin_of(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the bin of every finite value, in the shape of `values`.

    Args:
        values: values of any shape, converted to float32.
    """
    bits = np.abs(np.asarray(values, np.float32)).view(np.int32)
    return np.where(bits == 0, ZEROS, bin_of_key(bits >> KEY_SHIFT))


def snap(threshold: float) -> tuple[int, float]:
    """Return the bin whose lower edge is nearest to a threshold by ratio, and that edge.

    Raises:
        ValueError: the threshold is not a positive number.
    """
    if not (np.isfinite(threshold) and threshold > 0):
        raise ValueError(f"a threshold must be a positive number, not {threshold}")
    edges = lower_edges()[FIRST_REGULAR:]
    nearest = int(np.argmin(np.abs(np.log(edges) - np.log(threshold))))
    return FIRST_REGULAR + nearest, float(edges[nearest])


def quantile_edge(histogram: NDArray[np.int64], quantile: float) -> tuple[int, float]:
    """Return the bin at whose lower edge the share of smaller values is nearest to a quantile, and that edge.

    Args:
        histogram: counts, shape (NUM_BINS,).
        quantile: share in (0, 1).

    Raises:
        ValueError: the quantile is outside (0, 1) or the histogram is empty.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"a quantile must lie between 0 and 1, not {quantile}")
    total = int(histogram.sum())
    if total == 0:
        raise ValueError("the histogram is empty")
    share_below = (np.cumsum(histogram) - histogram)[FIRST_REGULAR:] / total
    nearest = int(np.argmin(np.abs(share_below - quantile)))
    return FIRST_REGULAR + nearest, float(lower_edges()[FIRST_REGULAR + nearest])


def count_below(histogram: NDArray[np.integer[Any]], bin_index: int) -> NDArray[np.int64]:
    """Return the number of values below the lower edge of a bin; shape (..., NUM_BINS) becomes (...)."""
    below: NDArray[np.int64] = histogram[..., :bin_index].sum(axis=-1)
    return below
