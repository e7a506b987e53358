"""Hidden states of some layers, with their gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from stratoscope.models import LayerLayout

States = dict[int, torch.Tensor]
"""Output of each layer, by its number, shape (rows, longest, D)."""


@contextmanager
def captured(anatomy: LayerLayout, layers: Sequence[int]) -> Iterator[States]:
    """Collect what some layers put out while the block runs.

    It has to end before the backward pass begins, in which checkpointed layers run once more.
    """
    states: States = {}

    def keep(layer: int, output: Any) -> None:
        states[layer] = output[0] if isinstance(output, tuple) else output

    handles = [
        anatomy.blocks[layer].module.register_forward_hook(
            lambda _module, _given, output, layer=layer: keep(layer, output)
        )
        for layer in layers
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
