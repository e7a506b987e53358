"""The trial of a model before it is read: small passes on fixed tokens determine how its taps can be read.

The first pass shows which blocks run on text, what shape their hidden states have, and what each block adds to the
residual stream (`stratoscope.activations.residual`). Further passes compare a prompt that is padded with the same
prompt alone. The result of a trial depends only on the model, so it is the same in every process.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from stratoscope.activations.float32 import blocks_in_float32
from stratoscope.activations.low_precision import conventional_if_exact, possible_factors
from stratoscope.activations.reading import NOT_RUN, BlockReading, conventional
from stratoscope.activations.residual import Call, Decomposition, free_vectors
from stratoscope.activations.tap import Tap
from stratoscope.activations.taps import first_tensor, hidden_input
from stratoscope.errors import InputError, first_line
from stratoscope.models import Block, LoadedModel
from stratoscope.models.anatomy import first_position, is_norm

RunModel = Callable[[Tensor, Tensor], object]
"""Runs a model's layers on token ids and attention mask."""
SHAPE = (2, 8)
"""Prompts and tokens of the trial."""
SHORT = 5
"""Tokens of the prompt that is padded."""
SAME = 1e-3
"""Largest relative difference between a prompt alone and in a batch, in float32."""
SAME_ROUNDED = 0.05
"""Largest relative difference in a number format with fewer bits, at the first layer that runs."""


class Batching(StrEnum):
    """Batches in which a model computes the same for each prompt as for the prompt alone."""

    ANY = "any"
    EQUAL_LENGTHS = "equal lengths"
    SINGLE = "single prompts"


@dataclass(frozen=True)
class ModelReading:
    """How the taps of a model are read."""

    blocks: tuple[BlockReading, ...]
    """Readings in order of layers."""
    batching: Batching = Batching.ANY
    """Batches that the model may get."""

    @property
    def withdrawn(self) -> dict[Tap, str]:
        """Taps that have no activations in the model, with the reason."""
        ran = [(layer, block) for layer, block in enumerate(self.blocks) if block.runs]
        unknown = [layer for layer, block in ran if block.terms is None]
        if unknown:
            reason = f"what layer {unknown[0]} adds to the residual stream is not the sum of its parts"
            return dict.fromkeys((Tap.ATTENTION, Tap.MLP, Tap.MLP_HIDDEN), reason)
        hidden = [layer for layer, block in ran if block.of(Tap.MLP) and not block.has(Tap.MLP_HIDDEN)]
        if hidden:
            return {Tap.MLP_HIDDEN: f"the feed-forward part of layer {hidden[0]} does not end in one linear map"}
        return {}


_BLOCKS: WeakKeyDictionary[nn.Module, BlockReading] = WeakKeyDictionary()
_BATCHING: WeakKeyDictionary[nn.Module, Batching] = WeakKeyDictionary()
_FIRST_POSITION: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()


def position_of_first(backbone: nn.Module) -> int | None:
    """Return the position id of a prompt's first token; None if the model must number positions by itself."""
    return _FIRST_POSITION[backbone] if backbone in _FIRST_POSITION else first_position(backbone)


def read_model(model: LoadedModel, run: RunModel) -> ModelReading:
    """Return how the taps of a model are read, after a trial if the model is new.

    Args:
        model: the model.
        run: runs its layers on token ids and attention mask.

    Raises:
        InputError: the model does not run on text alone, or its hidden states cannot be assigned to tokens.
    """
    blocks = model.anatomy.blocks
    if model.device.type == "meta":
        # There are no values to compare, so the blocks are assumed to add the outputs of their parts.
        return ModelReading(tuple(conventional(block) for block in blocks))
    if model.backbone not in _BATCHING or any(block.module not in _BLOCKS for block in blocks):
        with torch.no_grad():
            _try(model, run)
    return ModelReading(tuple(_BLOCKS[block.module] for block in blocks), _BATCHING[model.backbone])


def _try(model: LoadedModel, run: RunModel) -> None:
    name = type(model.network).__name__
    try:
        try:
            _Trial(model, run, in_float32=True).perform()
        except InputError:
            raise
        except Exception:
            # Some kernels do not support float32. The blocks are then tried in the number format of the model.
            _Trial(model, run, in_float32=False).perform()
    except InputError:
        raise
    except Exception as error:  # a model's code may raise anything
        raise InputError(f"model {name} does not run on text alone: {first_line(error)}") from error


@dataclass
class _Trial:
    """The passes of one model's trial."""

    model: LoadedModel
    run: RunModel
    in_float32: bool
    outputs: dict[int, Tensor] = field(default_factory=dict)
    """Output of each block in the latest pass."""

    def perform(self) -> None:
        """Run the passes and store what they show."""
        model, ids = self.model, _trial_ids(self.model.network)
        modules = [block.module for block in model.anatomy.blocks]
        with ExitStack() as stack:
            rounded = any(p.dtype in {torch.bfloat16, torch.float16} for m in modules for p in m.parameters())
            if self.in_float32 and rounded:
                stack.enter_context(blocks_in_float32(modules))
            observers = [_Observer(layer, block, model) for layer, block in enumerate(model.anatomy.blocks)]
            with _observed(observers):
                self._pass(ids, torch.ones_like(ids))
            readings = [observer.reading() for observer in observers]
            if not any(reading.runs for reading in readings):
                raise InputError(f"model {type(model.network).__name__}: none of its layers runs on text alone")
            batching = self._batching(ids)
        _BLOCKS.update(zip(modules, readings, strict=True))
        _BATCHING[model.backbone] = batching

    def _pass(self, ids: Tensor, mask: Tensor) -> None:
        self.outputs.clear()
        handles = [
            block.module.register_forward_hook(partial(self._store, layer), prepend=True)
            for layer, block in enumerate(self.model.anatomy.blocks)
        ]
        try:
            self.run(ids.to(self.model.device), mask.to(self.model.device))
        finally:
            for handle in handles:
                handle.remove()

    def _store(self, layer: int, _module: nn.Module, _args: Any, output: Any) -> None:
        self.outputs[layer] = first_tensor(output).detach().clone()

    def _output(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last layer's output, or the first layer's if rounding grows too large by the last layer."""
        self._pass(ids, mask)
        last = self.outputs[max(self.outputs)]
        return last if _is_exact(last) else self.outputs[min(self.outputs)]

    def _batching(self, ids: Tensor) -> Batching:
        """Compare a prompt alone with the same prompt in a padded batch and in a batch of equal lengths."""
        short, ones, padding = ids[:, :SHORT], torch.ones_like(ids), torch.ones_like(ids)
        padding[1, SHORT:] = 0
        alone = self._alone(short[1:])
        padded = self._output(ids, padding)
        if padded.shape[:2] == ids.shape and _alike(padded[1, :SHORT], alone):
            return Batching.ANY
        together = self._output(short, ones[:, :SHORT])[1]
        return Batching.EQUAL_LENGTHS if _alike(together, alone) else Batching.SINGLE

    def _alone(self, ids: Tensor) -> Tensor:
        """Return the output for one prompt, and store from which position the model counts.

        A pass without position ids is the reference, because the model was trained that way.
        """
        backbone, ones = self.model.backbone, torch.ones_like(ids)
        assumed = position_of_first(backbone)
        _FIRST_POSITION[backbone] = None
        own = self._output(ids, ones)[0]
        for first in dict.fromkeys((assumed, *_paddings(backbone))):
            _FIRST_POSITION[backbone] = first
            if _alike(self._output(ids, ones)[0], own):
                return own
        _FIRST_POSITION[backbone] = None
        return own


def _paddings(backbone: nn.Module) -> list[int]:
    """Return the positions after a padding index from which any module of a model may count."""
    indices = [getattr(module, "padding_idx", None) for module in backbone.modules()]
    return [index + 1 for index in indices if isinstance(index, int)]


def _is_exact(tensor: Tensor) -> bool:
    return torch.finfo(tensor.dtype).eps < 1e-6


def _alike(a: Tensor, b: Tensor) -> bool:
    """Return whether hidden states of a prompt, shape (S, ...), are equal except for rounding."""
    if a.shape != b.shape:
        return False
    tolerance = SAME if _is_exact(b) else SAME_ROUNDED
    a, b = a.flatten(1).double(), b.flatten(1).double()
    known = a.isfinite().all(dim=1) & b.isfinite().all(dim=1)
    apart = torch.linalg.vector_norm(a - b, dim=1) / torch.linalg.vector_norm(b, dim=1).clamp(min=1e-12)
    return bool((apart[known] <= tolerance).all())


def _trial_ids(network: Any) -> Tensor:
    """Return token ids without special tokens, the same for every instance of a model."""
    configs = {id(c): c for c in (network.config, network.config.get_text_config())}.values()
    special = {
        v for c in configs for n, v in c.to_dict().items() if n.endswith(("_id", "_index")) and isinstance(v, int)
    }
    size = int(network.config.get_text_config().vocab_size)
    number = SHAPE[0] * SHAPE[1]
    ids = (i * 37 % size for i in range(size + number) if i * 37 % size not in special)
    chosen = [token for token, _ in zip(ids, range(number), strict=False)]
    return torch.tensor((chosen * number)[:number]).view(SHAPE)


@dataclass(eq=False)
class _Observer:
    """Records the calls of one block's modules during the first pass."""

    layer: int
    block: Block
    model: LoadedModel
    calls: list[Call] = field(default_factory=list)
    counts: Counter[nn.Module] = field(default_factory=Counter)
    inputs: dict[nn.Module, Tensor] = field(default_factory=dict)
    entered: int = 0
    result: BlockReading | None = None
    _entering: Tensor | None = None
    """Input of the block as it got it."""
    _before: Tensor | None = None
    """Copy of the input from that moment."""

    def enter(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the block's input."""
        self.entered += 1
        hidden = hidden_input(args, kwargs)
        self._check_shape(hidden)
        self._entering, self._before = hidden.detach(), hidden.detach().clone()

    def enter_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the first input of a module in the block."""
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if tensors and self._fits(tensors[0]):
            self.inputs[module] = tensors[0].detach().clone()

    def leave_module(self, path: str, module: nn.Module, _args: Any, output: Any) -> None:
        """Record the output of a module in the block."""
        self.counts[module] += 1
        tensor = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(tensor, Tensor) and self._fits(tensor):
            copy = tensor.detach().clone()
            entering, norm = self.inputs.get(module), is_norm(module, self.block.module)
            self.calls.append(Call(module, path, len(self.calls), tensor, copy, entering, norm))

    def leave(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Determine what the block adds."""
        after = first_tensor(output)
        self._check_shape(after)
        entering, before = self._entering, self._before
        self._entering = self._before = None
        assert entering is not None
        assert before is not None
        if after.shape != before.shape:
            raise InputError(
                f"{self._name}: its input and output have different shapes, {_shape(before)} and {_shape(after)}; "
                "such a model cannot be read"
            )
        if self.entered > 1:
            raise InputError(f"{self._name} runs several times in one pass; a model that repeats layers cannot be read")
        calls = [replace(call, is_single=self.counts[call.module] == 1) for call in self.calls]
        calls = [call for call in calls if call.is_single or call.is_norm]
        resolution = max(torch.finfo(call.copy.dtype).eps for call in calls) if calls else 0.0
        if resolution > 1e-6 or not after.isfinite().all():
            factors = possible_factors(self.model.network.config.get_text_config())
            result = conventional_if_exact(self.block, before=before, after=after, calls=calls, factors=factors)
        else:
            vectors = free_vectors(self.block.module, before.shape[-1])
            result = Decomposition(self.block, before, after.detach().clone(), calls, resolution, vectors).reading()
        self.result = replace(result, overwrites=not torch.equal(entering.nan_to_num(), before.nan_to_num()))
        self.calls.clear()
        self.inputs.clear()

    def reading(self) -> BlockReading:
        """Return how the block is read."""
        return self.result or NOT_RUN

    @property
    def _name(self) -> str:
        return f"model {type(self.model.network).__name__}: layer {self.layer} ({type(self.block.module).__name__})"

    def _fits(self, tensor: Tensor) -> bool:
        """Return whether a tensor has one row of the stream's width for each token."""
        if self._before is None or not tensor.is_floating_point():
            return False
        shape = self._before.shape
        return tensor.shape in {shape, torch.Size((shape[0] * shape[1], *shape[2:]))}

    def _check_shape(self, hidden: Tensor) -> None:
        if hidden.ndim < 3 or tuple(hidden.shape[:2]) != SHAPE:
            raise InputError(
                f"{self._name}: its hidden states have shape {_shape(hidden)} for a batch of {SHAPE[0]} prompts with "
                f"{SHAPE[1]} tokens, so they cannot be assigned to tokens"
            )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


@contextmanager
def _observed(observers: Sequence[_Observer]) -> Iterator[None]:
    """Let observers record one pass."""
    handles = []
    for observer in observers:
        module = observer.block.module
        handles.append(module.register_forward_pre_hook(observer.enter, with_kwargs=True))
        for path, part in module.named_modules():
            if path:
                handles.append(part.register_forward_pre_hook(observer.enter_module, with_kwargs=True))
                handles.append(part.register_forward_hook(partial(observer.leave_module, path)))
        handles.append(module.register_forward_hook(observer.leave, prepend=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def split_rows(attention_mask: Tensor, batching: Batching) -> list[list[int]]:
    """Split a batch that is padded on either side, and return the rows of each batch that the model may get.

    Args:
        attention_mask: zeros and ones, shape (B, S).
        batching: batches that the model may get.
    """
    lengths = attention_mask.sum(dim=1).tolist()
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(row if batching == Batching.SINGLE else length, []).append(row)
    return list(groups.values())
