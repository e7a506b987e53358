"""How a block adds to the residual stream, found on the model itself.

The tap `update` is what a block's parts add to the stream. In a number format with few bits the block's output minus
its input is mostly the rounding of the stream, so the parts are added up in float32 instead. That is right only where
output = input + factor * (attention + mlp); the factor is 1 but for models with a residual multiplier. Each block is
tried once, on token ids that are always the same, so that what is found depends on the model alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from stratoscope.activations.taps import on_input, on_output
from stratoscope.models import Block, LoadedModel

TRIAL_SHAPE = (2, 8)
"""Prompts and tokens of the trial."""


@dataclass(frozen=True)
class Residual:
    """What is known of a block."""

    factor: float | None
    """By which what attention and the feed-forward part put out is multiplied; None where that is not the update."""
    rewrites: bool = False
    """The block writes over what one of them has put out, so that it must be read at once."""


UNKNOWN = Residual(None)
_FOUND: WeakKeyDictionary[nn.Module, Residual] = WeakKeyDictionary()


def find_residuals(model: LoadedModel, run: Callable[[Tensor, Tensor], None]) -> tuple[Residual, ...]:
    """Return what is known of each block, in order of layers; blocks that are new are tried first.

    Args:
        model: the model.
        run: runs its layers on token ids and attention mask.
    """
    modules = [block.module for block in model.anatomy.blocks]
    if model.device.type == "meta":
        # There are no values to try, so a pass on that device takes the usual way.
        return (Residual(1.0),) * len(modules)
    if any(module not in _FOUND for module in modules):
        _try_blocks(model, run)
    return tuple(_FOUND.get(module, UNKNOWN) for module in modules)


@torch.inference_mode()
def _try_blocks(model: LoadedModel, run: Callable[[Tensor, Tensor], None]) -> None:
    config = model.network.config.get_text_config()
    factors = _possible_factors(config)
    handles = []
    for block in model.anatomy.blocks:
        trial = _Trial(block, factors)
        handles += [
            on_input(block.module, partial(trial.keep, "before")),
            on_output(block.attention, partial(trial.keep, "attention")),
            on_output(block.mlp, partial(trial.keep, "mlp")),
            on_output(block.module, trial.judge),
        ]
    ids = torch.arange(TRIAL_SHAPE[0] * TRIAL_SHAPE[1]).view(TRIAL_SHAPE) * 37 % int(config.vocab_size)
    try:
        run(ids.to(model.device), torch.ones_like(ids).to(model.device))
    finally:
        for handle in handles:
            handle.remove()


def _possible_factors(config: Any) -> tuple[float, ...]:
    """Return the factors that a block may use: none, or the one that its configuration names."""
    named = getattr(config, "residual_multiplier", None)
    return (1.0,) if named in {None, 1.0} else (1.0, float(named))


@dataclass
class _Trial:
    """Watches one block during the trial."""

    block: Block
    factors: Sequence[float]
    kept: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Tensors as the hooks saw them, and copies from that moment."""

    def keep(self, name: str, hidden: Tensor) -> None:
        self.kept[name] = hidden, hidden.clone()

    def judge(self, after: Tensor) -> None:
        rewrites = any(not _equal(kept, copy) for kept, copy in self.kept.values())
        copies = {name: copy for name, (_, copy) in self.kept.items()}
        self.kept.clear()
        fitting = [factor for factor in self.factors if _adds_up(factor, after=after, **copies)]
        _FOUND[self.block.module] = Residual(fitting[0] if fitting else None, rewrites)


def _equal(kept: Tensor, copy: Tensor) -> bool:
    # NaN is unequal to itself.
    return torch.equal(kept.nan_to_num(), copy.nan_to_num())


def _adds_up(factor: float, *, before: Tensor, attention: Tensor, mlp: Tensor, after: Tensor) -> bool:
    """Tell whether after = before + factor * (attention + mlp), but for rounding to the tensors' number format.

    Every element must agree within what rounding can do, and so must the slope of the whole, where errors average out:
    a stream that is large beside its updates would hide a wrong factor in each single element.
    """
    tensors = (before, attention, mlp, after)
    resolution = max(torch.finfo(tensor.dtype).eps for tensor in tensors)
    before, attention, mlp, after = (tensor.to(after.device).reshape(after.shape).double() for tensor in tensors)
    parts, update = factor * (attention + mlp), after - before
    bound = resolution * (before.abs() + after.abs() + abs(factor) * (attention.abs() + mlp.abs()))
    if not bool(((update - parts).abs() <= bound).all()):
        return False
    scale = parts.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
    slack = 4 * torch.linalg.vector_norm(bound * parts) / scale
    return bool(((update * parts).sum() / scale - 1).abs() <= slack)
