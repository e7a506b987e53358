"""Decomposition of a series into a moving average and a remainder."""

import torch
from torch.nn import functional

Tensor = torch.Tensor
WINDOW = 25
"""Number of points averaged, as in DLinear (Zeng et al., 2023)."""


def moving_average(rows: Tensor) -> Tensor:
    """Return the moving average of rows, shape (B, C, T); the end values are repeated beyond the ends."""
    side = WINDOW // 2
    padded = functional.pad(rows, (side, side), mode="replicate")
    return functional.avg_pool1d(padded, WINDOW, stride=1)
