"""How the taps of a block are read: the modules whose outputs make up what it adds to the residual stream."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from stratoscope.activations.tap import Tap
from stratoscope.models import Block


@dataclass(frozen=True)
class Term:
    """A module whose output a block adds to its residual stream."""

    module: nn.Module
    tap: Tap | None
    """Tap that reads it: attention or mlp; None if it belongs to neither part."""
    factor: float = 1.0
    """Constant by which the block multiplies the output."""
    overwritten: bool = False
    """Whether the block later writes into the same memory, so that the output must be copied at once."""
    bias: Tensor | None = field(default=None, compare=False)
    """Vector that the block adds to the output, shape (D,)."""


@dataclass(frozen=True)
class BlockReading:
    """How the taps of one block are read."""

    runs: bool = True
    """Whether the block runs on text at all."""
    terms: tuple[Term, ...] | None = None
    """What the block adds to the stream; None where that could not be determined."""
    is_sum: bool = False
    """Whether the block's output is its input plus all terms."""
    hidden: nn.Module | None = None
    """Linear map whose input is the hidden activation of the feed-forward part."""
    experts: nn.Module | None = None
    """Module with all experts of a mixture, which holds that activation instead."""
    overwrites: bool = False
    """Whether the block writes into its input, so that the input must be copied before the block runs."""

    def of(self, tap: Tap) -> tuple[Term, ...]:
        """Return the terms that a tap adds up."""
        if tap == Tap.UPDATE:
            return (self.terms or ()) if self.is_sum else ()
        return tuple(term for term in self.terms or () if term.tap == tap)

    def has(self, tap: Tap) -> bool:
        """Return whether a tap has activations in the block."""
        if tap in {Tap.BLOCK, Tap.UPDATE}:
            return self.runs
        if tap == Tap.MLP_HIDDEN:
            return self.hidden is not None or self.experts is not None
        return bool(self.of(tap))


NOT_RUN = BlockReading(runs=False)
UNKNOWN = BlockReading()


def conventional(block: Block, factor: float = 1.0, *, overwritten: bool = False) -> BlockReading:
    """Return the reading of a block whose output is its input plus the outputs of its parts."""
    parts = ((block.attention, Tap.ATTENTION), (block.mlp, Tap.MLP))
    terms = tuple(Term(part, tap, factor, overwritten) for part, tap in parts if part is not None)
    experts = block.experts if block.shows_experts else None
    return BlockReading(True, terms, True, block.mlp_output, experts)
