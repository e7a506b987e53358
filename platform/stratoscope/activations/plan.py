"""What a probe reads from each layer of a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stratoscope.activations import fused
from stratoscope.activations.reading import BlockReading, Term
from stratoscope.activations.tap import Tap
from stratoscope.activations.trial import ModelReading

FUSED_TAPS = frozenset((*fused.STREAM_TAPS, Tap.MLP_HIDDEN))
"""Taps that the fused kernel can read."""


@dataclass(frozen=True, eq=False)
class ReadingPlan:
    """What a probe reads from each layer: L layers, K taps."""

    model: str
    """Name of the model's class, for messages."""
    taps: tuple[Tap, ...]
    """Taps of the probe."""
    spans: tuple[tuple[int, int], ...]
    """(start, length) of the spans of layers whose cosine on the last token is computed."""
    blocks: tuple[BlockReading, ...]
    """How the taps of each layer are read."""
    runs: NDArray[np.bool_]
    """Layers that run, shape (L,)."""
    present: NDArray[np.bool_]
    """Taps that have activations, shape (L, K)."""
    terms: tuple[tuple[Term, ...], ...]
    """Terms of each layer that the taps need."""

    @classmethod
    def make(
        cls, model: str, reading: ModelReading, taps: Sequence[Tap], spans: Sequence[tuple[int, int]] = ()
    ) -> "ReadingPlan":
        """Plan how some taps of a model are read.

        Args:
            model: name of the model's class.
            reading: how all of the model's taps are read.
            taps: taps to read.
            spans: (start, length) of the spans of layers.
        """
        blocks, withdrawn = reading.blocks, reading.withdrawn
        present = [[tap not in withdrawn and block.has(tap) for tap in taps] for block in blocks]
        terms = tuple(
            _terms_of(block, [tap for tap, has in zip(taps, row, strict=True) if has])
            for block, row in zip(blocks, present, strict=True)
        )
        runs = np.array([block.runs for block in blocks])
        return cls(model, tuple(taps), tuple(spans), blocks, runs, np.array(present), terms)

    def has(self, layer: int, tap: Tap) -> bool:
        """Return whether the probe reads a tap of a layer."""
        return tap in self.taps and bool(self.present[layer, self.taps.index(tap)])

    def update_is_sum(self, layer: int) -> bool:
        """Return whether the update of a layer is read, as the sum of its terms."""
        return Tap.UPDATE in self.taps and bool(self.blocks[layer].of(Tap.UPDATE))

    @property
    def overwrites(self) -> bool:
        """Whether any block writes into its input, which is the output of the block before it."""
        return any(block.overwrites for block in self.blocks)

    def fits_kernel(self) -> bool:
        """Return whether the fused kernel can read all layers.

        It reads blocks of one shape, whose token mixer and feed-forward part are added with the same factor and not
        overwritten. It reads a block's input after the block has run.
        """
        if self.overwrites or not self.present.all() or not set(self.taps) <= FUSED_TAPS:
            return False
        return all(self._layer_fits_kernel(layer) for layer in range(len(self.blocks)))

    def _layer_fits_kernel(self, layer: int) -> bool:
        terms, block = self.terms[layer], self.blocks[layer]
        taps, factors = [term.tap for term in terms], {term.factor for term in terms}
        altered = any(term.overwritten or term.bias is not None for term in terms)
        if None in taps or len(set(taps)) < len(taps) or len(factors) > 1 or altered:
            return False
        if self.update_is_sum(layer):
            return {Tap.ATTENTION, Tap.MLP} == {term.tap for term in block.of(Tap.UPDATE)}
        return factors <= {1.0}

    def without_mean(self) -> NDArray[np.bool_]:
        """Return where tokens have no common mean because each was routed to its own experts, shape (L, K)."""
        mixtures = np.array([block.experts is not None for block in self.blocks])
        without: NDArray[np.bool_] = mixtures[:, None] & np.array([tap == Tap.MLP_HIDDEN for tap in self.taps])
        return without


def _terms_of(block: BlockReading, taps: Sequence[Tap]) -> tuple[Term, ...]:
    """Return the terms of a block that some taps need, in the order of update, attention, mlp."""
    needed = [tap for tap in (Tap.UPDATE, Tap.ATTENTION, Tap.MLP) if tap in taps]
    return tuple(dict.fromkeys(term for tap in needed for term in block.of(tap)))
