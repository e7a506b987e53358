"""Readings of blocks in a number format with few bits, in which sums hold within rounding alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stratoscope.activations.reading import UNKNOWN, BlockReading, conventional
from stratoscope.activations.residual import Call
from stratoscope.models import Block


def adds_up(factor: float, *, before: Tensor, after: Tensor, parts: Sequence[Tensor]) -> bool:
    """Return whether after = before + factor * sum of parts, except for rounding to the tensors' number format.

    Every element must agree within rounding, and so must the regression slope over all elements, in which errors
    average out. If the stream is large compared with its updates, rounding would hide a wrong factor in each single
    element.
    """
    tensors = (before, after, *parts)
    resolution = max(torch.finfo(tensor.dtype).eps for tensor in tensors)
    before, after, *parts = (tensor.to(after.device).reshape(after.shape).double() for tensor in tensors)
    finite = torch.stack([before, after, *parts]).isfinite().all(dim=0)
    if not finite.any():
        return False
    before, after, *parts = (tensor[finite] for tensor in (before, after, *parts))
    total, update = factor * torch.stack(list(parts)).sum(dim=0), after - before
    bound = resolution * (before.abs() + after.abs() + abs(factor) * torch.stack(list(parts)).abs().sum(dim=0))
    if not bool(((update - total).abs() <= bound).all()):
        return False
    scale = total.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    slack = 4 * torch.linalg.vector_norm(bound * total) / scale
    return bool(((update * total).sum() / scale - 1).abs() <= slack)


def conventional_if_exact(
    block: Block, *, before: Tensor, after: Tensor, calls: Sequence[Call], factors: Sequence[float]
) -> BlockReading:
    """Return the reading of a low-precision block: its parts if their outputs add up, else unknown."""
    by_module = {call.module: call for call in calls}
    modules = [part for part in (block.attention, block.mlp) if part is not None]
    if any(module not in by_module for module in modules) or not modules:
        return UNKNOWN
    parts = [by_module[module] for module in modules]
    for factor in factors:
        if adds_up(factor, before=before, after=after, parts=[part.copy for part in parts]):
            return conventional(block, factor, overwritten=any(part.overwritten for part in parts))
    return UNKNOWN


def possible_factors(config: Any) -> tuple[float, ...]:
    """Return the factors that a block may use: 1, and the one in its configuration if there is another."""
    multiplier = getattr(config, "residual_multiplier", None)
    return (1.0,) if multiplier in {None, 1.0} else (1.0, float(multiplier))
