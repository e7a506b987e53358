"""Computation of a low-precision model's blocks in float32, converting one block at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from stratoscope.activations.taps import hidden_input

LARGEST = 2**31
"""Blocks with more parameters than this are not converted to float32."""


@contextmanager
def blocks_in_float32(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Compute blocks in float32 inside this context, and restore the weights of each block after it has run.

    Args:
        modules: the blocks in order; those that are quantised, on meta or larger than `LARGEST` stay as they are.
    """
    stored: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
    dtypes: list[torch.dtype] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        tensors = [t for t in (*module.parameters(), *module.buffers()) if t.dtype in {torch.bfloat16, torch.float16}]
        stored[module] = [(tensor, tensor.data) for tensor in tensors]
        dtypes.append(hidden_input(args, kwargs).dtype)
        for tensor in tensors:
            tensor.data = tensor.data.float()
        converted: tuple[Any, Any] = tree_map_only(Tensor, _to_float32, (args, kwargs))
        return converted

    def leave(module: nn.Module, _args: Any, output: Any) -> Any:
        for tensor, data in stored.pop(module, ()):
            tensor.data = data
        if module is not modules[-1]:
            return output
        # What follows the blocks, such as the last norm, expects the dtype that the first block got.
        return tree_map_only(Tensor, lambda t: t.to(dtypes[0]) if t.is_floating_point() else t, output)

    handles = []
    for module in modules:
        parameters = list(module.parameters())
        if any(not p.is_floating_point() or p.is_meta for p in parameters) or _size(parameters) > LARGEST:
            continue
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for pairs in stored.values():
            for tensor, data in pairs:
                tensor.data = data


def _size(parameters: Sequence[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in {torch.bfloat16, torch.float16} else tensor
