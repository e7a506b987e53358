"""Affine maps with nothing between them: one affine map, and computed as one."""

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
    """Return the one map that maps make one behind another, the first of them applied first."""
    *earlier, (weight, bias) = maps
    for own_weight, own_bias in reversed(earlier):
        # The bias of an earlier map runs through all behind it.
        bias = torch.addmv(bias, weight, own_bias)
        weight = weight @ own_weight
    return weight, bias


def side_by_side(maps: Sequence[Affine]) -> Affine:
    """Return the map that applies each of these to its own part of what it is given."""
    weight: Tensor = torch.block_diag(*(weight for weight, _ in maps))  # type: ignore[no-untyped-call]
    return weight, torch.cat([bias for _, bias in maps])


class AffineChain(nn.Module):
    """Affine maps one behind another, without activation.

    A batch is not pushed through them: the matrices are multiplied, from the narrow end, and the product is applied
    to the batch. The result is the same but for rounding, and so are the gradients. Within `cached_weights` and
    `frozen` even the product is computed once.

    Args:
        widths: of the input, of every map's output, and so of the output.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self._collapsed: tuple[Tensor, Tensor] | None = None

    def forward(self, given: Tensor) -> Tensor:
        """Map (..., first width) to (..., last width)."""
        weight, bias = self.collapsed() if self._collapsed is None else self._collapsed
        return nn.functional.linear(given, weight, bias)

    def collapsed(self) -> Affine:
        """Return weight, shape (last, first), and bias, shape (last,), of the one map that all make."""
        return compose([parameters_of(each) for each in self.maps])

    @contextmanager
    def cached_weights(self) -> Iterator[None]:
        """Compute the one map once for all passes of the block, in which the weights do not change."""
        self._collapsed = self.collapsed()
        try:
            yield
        finally:
            self._collapsed = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let no gradient reach the weights while the block runs; the one map is computed once, or was already."""
        made = self._collapsed
        with torch.no_grad():
            weight, bias = self.collapsed() if made is None else made
        self._collapsed = (weight.detach(), bias.detach())
        try:
            yield
        finally:
            self._collapsed = made
