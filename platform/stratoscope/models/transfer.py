"""Copies between a device and the host, and logits at chosen positions, without waiting for the device."""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device without waiting for what runs there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_host(*values: Tensor) -> Callable[[], tuple[NDArray[Any], ...]]:
    """Start copying tensors of one device to the host; the returned function waits for the copies.

    A tensor on the meta device has no values and becomes zeros. A pass on the meta device therefore checks, on a
    machine without a GPU, that no step combines tensors of two devices.
    """
    if values[0].is_cuda:
        # Pinned memory, which PyTorch keeps for the next batch, is written by the device itself.
        copies = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in values]
        for copy, value in zip(copies, values, strict=True):
            copy.copy_(value, non_blocking=True)
        copied = torch.cuda.current_stream(values[0].device).record_event()

        def wait() -> tuple[NDArray[Any], ...]:
            copied.synchronize()
            return tuple(copy.numpy() for copy in copies)

        return wait
    arrays = tuple((torch.zeros_like(v, device="cpu") if v.is_meta else v).numpy() for v in values)
    return lambda: arrays


def logits_at(network: nn.Module, keep: Tensor, device: torch.device, **inputs: Any) -> Tensor:
    """Run a network, with its vocabulary head at chosen positions alone.

    The number of positions in a mask on a GPU is unknown to the host, so selecting by such a mask makes the host wait.
    On devices other than the CPU, the positions are therefore counted on the host: every row computes as many positions
    as the row with the most, and unwanted ones are removed at the end.

    Args:
        network: a model with a vocabulary head.
        keep: true where logits are wanted, shape (B, S), on the host.
        device: where the network is.
        inputs: what the network takes, on that device.

    Returns:
        Logits in order of rows, shape (kept, vocabulary).
    """
    if device.type == "cpu":
        logits: Tensor = network(logits_to_keep=keep, **inputs).logits
        return logits.reshape(-1, logits.shape[-1])
    counts = keep.sum(dim=1)
    most = int(counts.max())
    # A stable sort of the mask puts the kept positions of each row first, in order.
    positions = keep.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    logits = network(logits_to_keep=to_device(positions, device), **inputs).logits
    wanted = (torch.arange(most) < counts[:, None]).flatten().nonzero().squeeze(1)
    return logits.reshape(-1, logits.shape[-1]).index_select(0, to_device(wanted, logits.device))
