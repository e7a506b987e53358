"""Chains of affine maps without activation, computed as one affine map."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import cast

import torch
from torch import nn

Tensor = torch.Tensor
Affine = tuple[Tensor, Tensor]
"""Weight, shape (out, in), and bias, shape (out,)."""


def parameters_of(layer: nn.Module) -> Affine:
    """Return the affine map of a linear layer."""
    linear = cast("nn.Linear", layer)
    return linear.weight, linear.bias


def compose(maps: Sequence[Affine]) -> Affine:
    """Return the composition of maps; the first map is applied first."""
    *earlier, (weight, bias) = maps
    for earlier_weight, earlier_bias in reversed(earlier):
        # The bias of an earlier map passes through all later maps.
        bias = torch.addmv(bias, weight, earlier_bias)
        weight = weight @ earlier_weight
    return weight, bias


def block_diagonal(maps: Sequence[Affine]) -> Affine:
    """Return the map that applies each of these maps to its own slice of the input."""
    weight: Tensor = torch.block_diag(*(weight for weight, _ in maps))  # type: ignore[no-untyped-call]
    return weight, torch.cat([bias for _, bias in maps])


class AffineChain(nn.Module):
    """A chain of affine maps without activation.

    The weight matrices are multiplied first, from the narrow end, and their product is applied to the batch. Results
    and gradients equal those of the separate maps up to rounding. Within `cached_weights` and `frozen` the product is
    computed once.

    Args:
        widths: widths of the input and of every map's output.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self._collapsed: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., first width) to (..., last width)."""
        weight, bias = self.collapsed() if self._collapsed is None else self._collapsed
        return nn.functional.linear(inputs, weight, bias)

    def collapsed(self) -> Affine:
        """Return weight, shape (last, first), and bias, shape (last,), of the composition of all maps."""
        return compose([parameters_of(layer) for layer in self.maps])

    @contextmanager
    def cached_weights(self) -> Iterator[None]:
        """Compute the composition once for all passes of the block, in which the weights must not change."""
        self._collapsed = self.collapsed()
        try:
            yield
        finally:
            self._collapsed = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let no gradient reach the weights while the block runs; a cached composition is reused."""
        cached = self._collapsed
        with torch.no_grad():
            weight, bias = self.collapsed() if cached is None else cached
        self._collapsed = (weight.detach(), bias.detach())
        try:
            yield
        finally:
            self._collapsed = cached
