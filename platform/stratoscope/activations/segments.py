"""Which tokens of a padded batch belong to which prompt."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """The real tokens of a batch, B prompts of at most S positions, listed prompt by prompt.

    Shapes: T real tokens in all.
    """

    positions: Tensor
    """Index of each real token in the flattened batch, shape (T,)."""
    rows: Tensor
    """Prompt of each real token, shape (T,)."""
    lengths: Tensor
    """Real tokens of each prompt, shape (B,)."""
    last: Tensor
    """Index among the T tokens of each prompt's last one, shape (B,)."""
    batch: tuple[int, int]
    """(B, S)."""

    @classmethod
    def from_mask(cls, attention_mask: Tensor) -> "Segments":
        """Read the real tokens from an attention mask of zeros and ones, shape (B, S), padded on either side."""
        mask = attention_mask.bool()
        positions = mask.flatten().nonzero().squeeze(1)
        lengths = mask.sum(dim=1)
        batch = (mask.shape[0], mask.shape[1])
        return cls(positions, positions // batch[1], lengths, lengths.cumsum(0) - 1, batch)

    def to(self, device: torch.device) -> "Segments":
        """Return the same on a device."""
        if device == self.rows.device:
            return self
        positions, rows, lengths, last = (t.to(device) for t in (self.positions, self.rows, self.lengths, self.last))
        return Segments(positions, rows, lengths, last, self.batch)

    @property
    def padded(self) -> bool:
        """Whether the batch holds any padding."""
        return len(self.positions) < self.batch[0] * self.batch[1]

    def take(self, hidden: Tensor) -> Tensor:
        """Return the real tokens of (B, S, D), or of its flattened form, as (T, D)."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        return flat.index_select(0, self.positions) if self.padded else flat

    def sum(self, values: Tensor) -> Tensor:
        """Sum token values over each prompt: (K, T, ...) becomes (K, B, ...), in an order that is always the same."""
        kinds, rest = values.shape[0], values.shape[2:]
        if values.device.type == "cpu":
            return values.new_zeros(kinds, self.batch[0], *rest).index_add_(1, self.rows, values)
        # On a GPU index_add_ adds in no fixed order, so the sum runs over the padded batch.
        spread = values.new_zeros(kinds, self.batch[0] * self.batch[1], *rest).index_copy_(1, self.positions, values)
        return spread.view(kinds, *self.batch, *rest).sum(dim=2)

    def spread(self, per_prompt: Tensor) -> Tensor:
        """Repeat prompt values for each of the prompt's tokens: (K, B) becomes (K, T)."""
        return per_prompt.index_select(1, self.rows)
