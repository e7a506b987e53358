"""A cache of hidden states that pruned models share.

Two pruned models that drop the same layers below layer m compute the same hidden states up to layer m. The cache keeps
the outputs of some layers of one model, and another model starts after the last cached layer before the first
difference. That layer is replaced by one that returns the cached state; masks, positions and the head are computed by
the model itself.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from stratoscope.evaluation.rows import Batch
from stratoscope.models import LoadedModel, set_layers, without_layers

LayerStep = Callable[[int], AbstractContextManager[None]]


@dataclass
class CachedPrefix:
    """The cached hidden states of one set of dropped layers."""

    dropped: tuple[int, ...]
    layers: tuple[int, ...]
    """Layers whose outputs are cached."""
    states: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    """Outputs by batch and layer."""
    tuples: dict[int, int] = field(default_factory=dict)
    """Length of the tuple that a layer returns; layers that return a tensor are absent."""

    def start(self, dropped: tuple[int, ...]) -> int | None:
        """Return the last layer after which another set of dropped layers may start, or None."""
        different = set(self.dropped) ^ set(dropped)
        below = [layer for layer in self.layers if not different or layer < min(different)]
        return max(below, default=None)


class PrefixCache:
    """Caches hidden states of batches: for each key those of the whole model and of the latest set that was kept.

    Args:
        model: whose layers are dropped.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._references: dict[str, list[CachedPrefix]] = {}
        self.layers_run = 0
        """Number of layers computed, summed over batches."""

    def forget(self) -> None:
        """Clear the cache."""
        self._references.clear()

    @contextmanager
    def run(
        self, dropped: tuple[int, ...], key: str | None, batches: Sequence[Batch], keep_bytes: int
    ) -> Iterator[LayerStep]:
        """Prune the model while the block runs, and yield a function that returns the context to run a batch in.

        Args:
            dropped: layers to leave out, in order.
            key: name of the batches; None does not use the cache.
            batches: all of them.
            keep_bytes: most bytes of states to keep for this set; 0 keeps none.
        """
        references = self._references.get(key, []) if key is not None else []
        best = max(references, key=lambda r: -1 if (s := r.start(dropped)) is None else s, default=None)
        start = best.start(dropped) if best is not None else None
        if key is not None and keep_bytes:
            reference = self._new_reference(key, dropped, batches, keep_bytes)
            with self._keeping(reference) as step:
                yield step
            # Only now: if the block fails, states of some batches are missing.
            self._references[key].append(reference)
        elif best is not None and start is not None:
            with self._starting(best, start, dropped) as step:
                yield step
        else:
            with without_layers(self._model, dropped) as pruned:
                self.layers_run += len(pruned.anatomy) * len(batches)
                yield lambda _index: nullcontext()

    def _new_reference(
        self, key: str, dropped: tuple[int, ...], batches: Sequence[Batch], keep_bytes: int
    ) -> CachedPrefix:
        """Make room for a set of states, and choose the layers whose outputs it caches."""
        references = self._references.setdefault(key, [])
        references[:] = [r for r in references if not r.dropped and r.dropped != dropped]
        network = self._model.network
        width = network.config.get_text_config().hidden_size * torch.finfo(network.dtype).bits // 8
        layer_bytes = sum(batch.num_tokens for batch in batches) * width
        kept = [i for i in range(len(self._model.anatomy)) if i not in dropped]
        num = min(keep_bytes // max(layer_bytes, 1), len(kept))
        layers = tuple(kept[(i + 1) * len(kept) // num - 1] for i in range(num)) if num else ()
        return CachedPrefix(dropped, layers)

    @contextmanager
    def _keeping(self, reference: CachedPrefix) -> Iterator[LayerStep]:
        current: list[int] = [0]

        def keep(layer: int) -> Callable[[nn.Module, Any, Any], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                state = output[0] if isinstance(output, tuple) else output
                if isinstance(output, tuple):
                    reference.tuples[layer] = len(output)
                reference.states[current[0], layer] = state.clone()

            return hook

        @contextmanager
        def step(index: int) -> Iterator[None]:
            current[0] = index
            self.layers_run += num_layers
            yield

        handles = [self._model.anatomy.blocks[i].module.register_forward_hook(keep(i)) for i in reference.layers]
        try:
            with without_layers(self._model, reference.dropped) as pruned:
                num_layers = len(pruned.anatomy)
                yield step
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _starting(self, reference: CachedPrefix, start: int, dropped: tuple[int, ...]) -> Iterator[LayerStep]:
        replay = Replay(self._model.anatomy.blocks[start].module, reference.tuples.get(start))

        @contextmanager
        def step(index: int) -> Iterator[None]:
            replay.state = reference.states[index, start].clone()
            self.layers_run += num_layers
            yield

        skipped = [*range(start), *(layer for layer in dropped if layer > start)]
        with without_layers(self._model, skipped) as rest:
            num_layers = len(rest.anatomy) - 1
            blocks = rest.anatomy.blocks
            set_layers(rest, nn.ModuleList([replay, *(block.module for block in blocks[1:])]))
            yield step


class Replay(nn.Module):
    """Replaces a layer and returns a cached state.

    Args:
        layer: the layer that is replaced; all attributes of it remain readable.
        length: length of the tuple that the layer returns; None where it returns a tensor.
    """

    state: torch.Tensor

    def __init__(self, layer: nn.Module, length: int | None) -> None:
        super().__init__()
        self._length = length
        self._layer = [layer]  # in a list, so that its weights are not registered as parameters of this module

    def forward(self, *_args: Any, **_options: Any) -> Any:
        """Return the cached state, whatever the input."""
        return self.state if self._length is None else (self.state, *[None] * (self._length - 1))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_layer"][0], name)
