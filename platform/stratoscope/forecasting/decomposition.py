"""A series as a moving average and the rest."""

import torch
from torch.nn import functional

Tensor = torch.Tensor
WINDOW = 25
"""Points of the average, as in DLinear (Zeng et al., 2023)."""


def moving_average(rows: Tensor) -> Tensor:
    """Return the average around each point, shape (B, C, T) as given; at the ends the end value is repeated."""
    side = WINDOW // 2
    padded = functional.pad(rows, (side, side), mode="replicate")
    return functional.avg_pool1d(padded, WINDOW, stride=1)
