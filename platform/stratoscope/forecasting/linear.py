"""A chain of affine maps with nothing between them: one affine map, and computed as one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import cast

import torch
from torch import nn

Tensor = torch.Tensor


class AffineChain(nn.Module):
    """Affine maps one behind another, without activation.

    A batch is not pushed through them: the matrices are multiplied, from the narrow end, and the product is applied
    to the batch. The result is the same but for rounding, and so are the gradients. Within `made_once` and
    `standing_still` even the product is computed once.

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

    def collapsed(self) -> tuple[Tensor, Tensor]:
        """Return weight, shape (last, first), and bias, shape (last,), of the one map that all make."""
        maps = [cast("nn.Linear", each) for each in self.maps]
        *earlier, (weight, bias) = [(each.weight, each.bias) for each in maps]
        product: Tensor = weight
        total: Tensor = bias
        for own_weight, own_bias in reversed(earlier):
            # The bias of an earlier map runs through all behind it.
            total = torch.addmv(total, product, own_bias)
            product = product @ own_weight
        return product, total

    @contextmanager
    def made_once(self) -> Iterator[None]:
        """Compute the one map once for all passes of the block, in which the weights do not change."""
        self._collapsed = self.collapsed()
        try:
            yield
        finally:
            self._collapsed = None

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let no gradient reach the weights while the block runs; the one map is computed once, or was already."""
        made = self._collapsed
        with torch.no_grad():
            weight, bias = self.collapsed() if made is None else made
        self._collapsed = (weight.detach(), bias.detach())
        try:
            yield
        finally:
            self._collapsed = made
