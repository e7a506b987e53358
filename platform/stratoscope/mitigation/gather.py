"""Collective operations between the workers of a training step, with gradients."""

from typing import Any

import torch
import torch.distributed as dist


def world_size() -> int:
    """Return the number of workers that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return the rows of all workers, concatenated in order of rank.

    The gradient of a row is the sum of its gradients on all workers, since each computes a part of the loss.

    Args:
        rows: rows of this worker, shape (counts[rank], ...).
        counts: number of rows of each worker.
    """
    if world_size() == 1:
        return rows
    longest = max(counts)
    padded = torch.nn.functional.pad(rows, (0, 0) * (rows.ndim - 1) + (0, longest - len(rows)))
    gathered: torch.Tensor = _Gather.apply(padded)  # type: ignore[no-untyped-call]
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def all_sum(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over all workers, without a gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def all_max(value: torch.Tensor) -> torch.Tensor:
    """Return the maximum over all workers."""
    maximum = value.clone()
    if world_size() > 1:
        dist.all_reduce(maximum, op=dist.ReduceOp.MAX)
    return maximum


class _Gather(torch.autograd.Function):
    """Stacks tensors of equal shape from all workers, shape (workers, ...)."""

    @staticmethod
    def forward(_context: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(_context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank()]
