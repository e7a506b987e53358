"""A small random copy of a model, on which dropping layers is tried before any weights are read.

The copy has the configuration of the model with all widths divided by one number, so that it runs in a fraction of a
second. It reveals problems that a comparison of names and shapes misses: code that fails without layers of some kind,
or that depends on the position of a layer.
"""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from stratoscope.errors import last_line
from stratoscope.models.anatomy import find_anatomy
from stratoscope.models.classes import build_empty, num_layers_of
from stratoscope.models.load import LoadedModel
from stratoscope.models.prune import without_layers

WIDTH = re.compile(r"size|dim|width|rank|ffn|inner|embd|d_model|d_ff|d_kv|d_head|headdim|mrope")
NO_WIDTH = re.compile(r"vocab|window|patch|image|kernel|chunk|group|block|state|conv|max|position|batch|num_|_ids?$")
FACTORS = (16, 8, 4, 2, 1)
"""Numbers that widths are divided by; the first with which the copy runs is taken."""
SMALLEST = 4
"""Smallest width of a copy."""
LARGEST = 400_000_000
"""Largest number of parameters of a copy."""
NUM_TOKENS = 9
SAME, OTHER = 1e-3, 1e-2
"""Relative differences of logits: up to the first, rounding may be the cause; beyond the second, it is not."""
CACHES = ("past_key_values", "cache_params", "state")
"""Names under which models return and take what they have cached."""


@dataclass(frozen=True)
class Rehearsal:
    """A small random copy of a model that runs."""

    model: LoadedModel
    ids: Tensor
    has_cache: bool
    """Whether the copy computes the same with a cache as without one."""

    @torch.no_grad()
    def passes_on_hidden_states_alone(self) -> bool:
        """Return whether a layer needs only the hidden states of the layer before it."""

        def hide(_module: nn.Module, _args: Any, output: Any) -> Any:
            return (output[0], *(None for _ in output[1:])) if type(output) is tuple else output

        histories: set[tuple[int, ...]] = set()

        def note(_module: nn.Module, args: Any) -> None:
            # Values that models collect from earlier layers grow from layer to layer.
            histories.update(tuple(x.shape) for x in args[1:2] if isinstance(x, Tensor) and x.is_floating_point())

        expected = _logits(self.model.network, self.ids)
        notes = [block.module.register_forward_pre_hook(note) for block in self.model.anatomy.blocks]
        _logits(self.model.network, self.ids)
        for handle in notes:
            handle.remove()
        if len(histories) > 1:
            return False
        handles = [block.module.register_forward_hook(hide) for block in self.model.anatomy.blocks[:-1]]
        try:
            return _alike(_logits(self.model.network, self.ids), expected, SAME)
        except Exception:  # a layer that gets None in place of a tensor may raise anything
            return False
        finally:
            for handle in handles:
                handle.remove()

    def problem(self, dropped: Sequence[int]) -> str:
        """Return why a model fails or computes a wrong result without some layers; empty if there is no problem."""
        try:
            with torch.no_grad():
                return self._problem(dropped)
        except Exception as error:  # a model's code may raise anything
            return f"it does not run: {last_line(error).strip()}"

    def _problem(self, dropped: Sequence[int]) -> str:
        with _skipped(self.model, dropped):
            expected = _logits(self.model.network, self.ids)
        with without_layers(self.model, dropped) as pruned:
            config = copy.deepcopy(pruned.network.config)
            built = build_empty(type(pruned.network), config)
            built.load_state_dict(pruned.network.state_dict(), assign=True, strict=False)
        built.eval()
        if not _alike(_logits(built, self.ids), expected, OTHER):
            return "the kept layers compute something else than in the whole model"
        if self.has_cache and not _alike(_cached_logits(built, self.ids), expected[:, -1:], OTHER):
            return "it computes something else with a cache"
        return ""


def rehearse(network: Any, config: Any = None) -> Rehearsal | None:
    """Return a small random copy of a model; None if no copy of it runs.

    Args:
        network: the model, whose weights are not read.
        config: configuration of the copy before its widths are divided; None takes the model's.
    """
    for factor in FACTORS:
        try:
            with torch.no_grad():
                return _rehearse(type(network), config or network.config, factor)
        except Exception:  # widths that do not fit each other raise any exception
            continue
    return None


def _rehearse(model_class: Any, config: Any, factor: int) -> Rehearsal:
    network = build_empty(model_class, _smaller(config, factor))
    if sum(parameter.numel() for parameter in network.parameters()) > LARGEST:
        raise ValueError("too large")
    _fill(network)
    network.eval()
    anatomy = find_anatomy(network, num_layers_of(network.config))
    ids = (torch.arange(NUM_TOKENS) * 37 + 5).remainder(network.get_input_embeddings().weight.shape[0]).unsqueeze(0)
    logits = _logits(network, ids)
    if not logits.isfinite().all():
        raise ValueError("no numbers")
    try:
        has_cache = _alike(_cached_logits(network, ids), logits[:, -1:], SAME)
    except Exception:  # some models take no cache, or only with further arguments
        has_cache = False
    return Rehearsal(LoadedModel(network, None, anatomy, network.device), ids, has_cache)


def _smaller(config: Any, factor: int) -> Any:
    """Return a configuration with the widths of its text model divided by a number where they can be."""
    fields = config.to_dict()
    text = next((n for n in fields if getattr(config, n, None) is config.get_text_config()), None)
    inner = fields if config.get_text_config() is config else fields.get(text, fields)
    inner.update({name: _divided(name, value, factor) for name, value in inner.items()})
    for name in ("quantization_config", "dtype", "torch_dtype"):
        fields.pop(name, None)
        inner.pop(name, None)
    return type(config).from_dict(fields)


def _divided(name: str, value: Any, factor: int) -> Any:
    if isinstance(value, dict):
        return {key: _divided(str(key), inner, factor) for key, inner in value.items()}
    if not WIDTH.search(name) or NO_WIDTH.search(name):
        return value
    if isinstance(value, list):
        return [_divided(name, element, factor) for element in value]
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value // factor if is_number and value % factor == 0 and value >= SMALLEST * factor else value


def _fill(network: nn.Module) -> None:
    """Give all parameters random values, scaled so that activations keep their size."""
    generator = torch.Generator().manual_seed(0)
    known: dict[int, nn.Parameter] = {}
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                values = torch.randn(parameter.shape, generator=generator)
                values = values * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 1 + 0.1 * values
                new = nn.Parameter(values.to(parameter.dtype), requires_grad=False)
                module._parameters[name] = known.setdefault(id(parameter), new)


def _logits(network: Any, ids: Tensor) -> Tensor:
    logits: Tensor = network(input_ids=ids, use_cache=False).logits
    return logits


def _cached_logits(network: Any, ids: Tensor) -> Tensor:
    """Return the logits of the last token, computed with the cache of the tokens before it."""
    before = network(input_ids=ids[:, :-1], use_cache=True)
    caches = {name: before[name] for name in CACHES if before.get(name) is not None}
    if not caches:
        raise ValueError("no cache")
    logits: Tensor = network(input_ids=ids[:, -1:], use_cache=True, **caches).logits
    return logits


def _alike(logits: Tensor, expected: Tensor, tolerance: float) -> bool:
    if logits.shape != expected.shape:
        return False
    return bool((logits - expected).abs().max() <= tolerance * expected.abs().max())


@contextmanager
def _skipped(model: LoadedModel, dropped: Sequence[int]) -> Iterator[None]:
    """Make some layers of a complete model return their input unchanged."""

    def skip(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if isinstance(output, Tensor):
            return inputs[0]
        # A layer may carry several streams.
        streams = iter([x for x in inputs if x.shape == inputs[0].shape and x.is_floating_point()])
        is_stream = [isinstance(x, Tensor) and x.shape == inputs[0].shape for x in output]
        values = [next(streams, x) if same else x for x, same in zip(output, is_stream, strict=True)]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)

    handles = [model.anatomy.blocks[layer].module.register_forward_hook(skip, with_kwargs=True) for layer in dropped]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
