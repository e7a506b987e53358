"""What the workers of a training step hold, put together, with gradients that find their way back."""

from typing import Any

import torch
import torch.distributed as dist


def world_size() -> int:
    """Return how many workers train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return the rows of all workers, one worker's behind another's.

    The gradient of a row is the sum over all workers of what their losses say of it, for each holds a part of the loss.

    Args:
        rows: this worker's, shape (counts[rank], ...).
        counts: rows of each worker.
    """
    if world_size() == 1:
        return rows
    longest = max(counts)
    padded = torch.nn.functional.pad(rows, (0, 0) * (rows.ndim - 1) + (0, longest - len(rows)))
    gathered: torch.Tensor = _Gather.apply(padded)  # type: ignore[no-untyped-call]
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def summed(values: torch.Tensor) -> torch.Tensor:
    """Return the sum over all workers, without a gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def largest(value: torch.Tensor) -> torch.Tensor:
    """Return the largest of all workers' values."""
    most = value.clone()
    if world_size() > 1:
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return most


class _Gather(torch.autograd.Function):
    """Stacks a tensor of every worker, of equal shapes, shape (workers, ...)."""

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
