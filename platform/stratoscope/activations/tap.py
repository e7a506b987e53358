"""Taps: the places in a block where activations are read."""

from enum import StrEnum


class Tap(StrEnum):
    """A place in a block."""

    BLOCK = "block"
    """The block's output: the residual stream after the block."""
    UPDATE = "update"
    """The total that the block's parts add to the residual stream: its output minus its input, up to rounding."""
    ATTENTION = "attention"
    """What the token mixer adds to the residual stream: attention, a state space model, a convolution and the like."""
    MLP = "mlp"
    """What the feed-forward part adds to the residual stream."""
    MLP_HIDDEN = "mlp_hidden"
    """The feed-forward part's hidden activation, after the non-linearity (and the gate, where there is one)."""
