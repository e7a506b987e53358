"""The layers that a prune ratio drops, from a score per layer."""

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.ranking import lowest, num_dropped, rank_layers


def select_layers(
    scores: NDArray[np.float64], ratio: float, *, contiguous: bool = False, high_is_important: bool = True
) -> tuple[int, ...]:
    """Return the layers to drop, in order.

    Args:
        scores: one per layer, shape (layers,), not negative; NaN where a layer has none.
        ratio: share of the layers; see `num_dropped`.
        contiguous: drop one span, the first of those with the least sum of scores.
        high_is_important: whether a high score marks an important layer.

    Raises:
        ValueError: no layer would be left, or too few have a score.
    """
    count = num_dropped(ratio, len(scores))
    if count >= len(scores):
        raise ValueError(f"a ratio of {ratio} leaves none of {len(scores)} layers")
    if np.isfinite(scores).sum() < count:
        raise ValueError(f"fewer than {count} layers have a score")
    if not contiguous or count == 0:
        return tuple(lowest(rank_layers(scores, high_is_important=high_is_important).rank, count))
    importance = np.nan_to_num(scores if high_is_important else -scores, nan=np.inf)
    sums = np.lib.stride_tricks.sliding_window_view(importance, count).sum(axis=-1)
    start = int(np.argmin(sums))
    if np.isinf(sums[start]):
        raise ValueError(f"no span of {count} layers has a score throughout")
    return tuple(range(start, start + count))
