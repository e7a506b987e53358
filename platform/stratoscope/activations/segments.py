"""Which tokens of a padded batch are read, and to which segment each of them belongs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stratoscope.models import to_device


@dataclass(frozen=True)
class Span:
    """Tokens of one row of a batch."""

    row: int
    start: int
    stop: int
    """Position after the last token."""


@dataclass(frozen=True)
class Segments:
    """The tokens to read in a batch of at most S positions, listed segment by segment.

    A segment is a prompt or a part of one. Segments may overlap: a token in two segments is listed twice. Shapes: N
    segments, T tokens in all.
    """

    positions: Tensor
    """Index of each token in the flattened batch, shape (T,)."""
    rows: Tensor
    """Segment of each token, shape (T,)."""
    lengths: Tensor
    """Tokens of each segment, shape (N,)."""
    last: Tensor
    """Index among the T tokens of each segment's last one, shape (N,)."""
    longest: int
    """Upper bound on the number of tokens of a segment."""
    everything: bool
    """Whether the tokens are all tokens of the flattened batch, in order."""

    @classmethod
    def from_mask(cls, attention_mask: Tensor) -> "Segments":
        """Read all real tokens, each row a segment.

        Args:
            attention_mask: zeros and ones, shape (B, S), padded on either side.
        """
        mask = attention_mask.bool()
        positions = mask.flatten().nonzero().squeeze(1)
        lengths = mask.sum(dim=1)
        rows = positions // mask.shape[1]
        return cls(positions, rows, lengths, lengths.cumsum(0) - 1, mask.shape[1], len(positions) == mask.numel())

    @classmethod
    def from_spans(cls, spans: Sequence[Span], width: int, device: torch.device) -> "Segments":
        """Read some tokens, each span a segment.

        Args:
            spans: none of them empty.
            width: positions of a row.
            device: where the batch lies.
        """
        lengths = torch.tensor([span.stop - span.start for span in spans])
        if (lengths < 1).any():
            raise ValueError("a span holds no token")
        rows = torch.repeat_interleave(torch.arange(len(spans)), lengths)
        starts = torch.tensor([span.row * width + span.start for span in spans])
        offset = torch.arange(len(rows)) - (lengths.cumsum(0) - lengths)[rows]
        parts = (starts[rows] + offset, rows, lengths, lengths.cumsum(0) - 1)
        positions, rows, lengths, last = (part.to(device) for part in parts)
        return cls(positions, rows, lengths, last, width, everything=False)

    def to(self, device: torch.device) -> "Segments":
        """Return the same on a device."""
        if device == self.rows.device:
            return self
        tensors = (self.positions, self.rows, self.lengths, self.last)
        positions, rows, lengths, last = (to_device(tensor, device) for tensor in tensors)
        return Segments(positions, rows, lengths, last, self.longest, self.everything)

    def bounds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return each segment's first position in the flattened batch, its length, and the place of its first token.

        Shape (N,) each, int32. A segment's positions follow one another: rows are padded on either side alone.
        """
        first = self.last - self.lengths + 1
        return self.positions.index_select(0, first).int(), self.lengths.int(), first.int()

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, hidden: Tensor) -> Tensor:
        """Return the tokens of (B, S, D), or of its flattened form, as (T, D)."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        return flat if self.everything else flat.index_select(0, self.positions)

    def take_last(self, hidden: Tensor) -> Tensor:
        """Return each segment's last token of (B, S, D) as (N, D)."""
        return hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.positions.index_select(0, self.last))

    def sum(self, values: Tensor) -> Tensor:
        """Sum token values over each segment in a fixed order: (K, T, ...) becomes (K, N, ...)."""
        kinds, rest = values.shape[0], values.shape[2:]
        if values.device.type == "cpu":
            return values.new_zeros(kinds, len(self), *rest).index_add_(1, self.rows, values)
        # On a GPU index_add_ adds in no fixed order, so the sum runs over segments padded to one length.
        offset = torch.arange(len(self.rows), device=values.device) - (self.last - self.lengths + 1)[self.rows]
        places = self.rows * self.longest + offset
        spread = values.new_zeros(kinds, len(self) * self.longest, *rest).index_copy_(1, places, values)
        return spread.view(kinds, len(self), self.longest, *rest).sum(dim=2)

    def spread(self, per_segment: Tensor) -> Tensor:
        """Repeat segment values for each of the segment's tokens: (K, N) becomes (K, T)."""
        return per_segment.index_select(1, self.rows)
