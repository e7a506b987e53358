"""Dropping layers of a model in place: no weight is copied, and the model is restored afterwards.

A transformer refers to its layers in three places: the list that holds them, the number of each layer, by which
attention finds its part of the KV cache, and the configuration, which holds the number of layers and, in lists with one
entry per layer, their kinds. All three change together, as do copies of these fields in modules, so that the pruned
network equals the one that `from_pretrained` loads from its exported checkpoint.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from stratoscope.errors import InputError
from stratoscope.models.anatomy import LayerLayout
from stratoscope.models.classes import class_with_head, layers_field
from stratoscope.models.load import LoadedModel

LAYER_NUMBERS = ("layer_idx", "layer_id")
"""Attributes of modules that hold the number of their layer."""
INDEX_LISTS = (
    *("mlp_only_layers", "moe_layers", "full_attn_idxs", "global_attn_idxs", "cross_attention_layers"),
    *("hybrid_layer_ids",),
)
"""Fields that name layers by their number."""
COUNTED_FROM_THE_START = ("first_k_dense_replace", "num_dense_layers", "max_window_layers")
"""Fields that count layers at the start of the stack."""
SPANS = {"moe_layer_start_index": "moe_layer_end_index"}
"""Fields that hold the first and the last layer of a kind."""
REPEATED = ("block_types",)
"""Fields that list kinds of layers, which are repeated until all layers have one."""
DEPTH_SCALES = ("scale_depth",)
"""Fields that are divided by the square root of the number of layers."""
PER_LAYER = "per_layer_config"
"""Field of settings by the number of the layer that they apply to."""
COUNTS = ("num_blocks",)
"""Further fields that may hold the number of layers."""
KV_SOURCES = "kv_source_layers"
"""Field that holds the layer whose keys and values each layer uses."""
STEPS = (
    *("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", "moe_layer_interval"),
    *("full_attention_interval",),
)
"""Fields that place a kind of layer at every n-th position, which describes no model with dropped layers."""
SHARED_BETWEEN_LAYERS = ("num_kv_shared_layers", "hidden_size_per_layer_input")
"""Fields of models whose layers share state with others, or depend on their number."""


@contextmanager
def without_layers(model: LoadedModel, dropped: Sequence[int]) -> Iterator[LoadedModel]:
    """Drop layers of a network while the block runs.

    Args:
        model: the model, whose network is changed in place and restored at the end.
        dropped: numbers of the layers, in any order.

    Yields:
        The same network, with the remaining layers as its anatomy.

    Raises:
        InputError: a layer does not exist, no layer would remain, or the configuration cannot describe the rest.
    """
    kept = kept_layers(len(model.anatomy), dropped)
    if len(kept) == len(model.anatomy):
        yield model
        return
    configs = _configs(model.network)
    changes = [(config, _changed_fields(config, kept, len(model.anatomy))) for config in configs]
    before = [(config, _current_fields(config, change)) for config, change in changes]
    blocks = tuple(model.anatomy.blocks[i] for i in kept)
    numbered = list(_numbers(model.anatomy, kept))
    copies = list(_copied_fields(model.network, changes, kept))
    layers = model.network.get_submodule(model.anatomy.path)
    try:
        set_layers(model, nn.ModuleList(block.module for block in blocks))
        for module, name, _, value in (*numbered, *copies):
            setattr(module, name, value)
        _apply(changes)
        yield replace(model, anatomy=LayerLayout(model.anatomy.path, blocks))
    finally:
        set_layers(model, layers)
        for module, name, value, _ in (*numbered, *copies):
            setattr(module, name, value)
        _apply(before)


def _numbers(anatomy: LayerLayout, kept: Sequence[int]) -> Iterator[tuple[nn.Module, str, int, int]]:
    """Yield (module, name, old value, new value) of each attribute that holds the number of a kept layer.

    Where each layer holds several token mixers, these are numbered through all layers.

    Raises:
        InputError: a number is neither that of its layer nor that of one of its mixers.
    """
    found = [list(_own_numbers(block.module)) for block in anatomy.blocks]
    highest = max((number for numbers in found for _, _, number in numbers), default=0)
    per_layer = max(1, (highest + 1) // len(anatomy))
    for new, old in enumerate(kept):
        for module, name, number in found[old]:
            if number == old:
                yield module, name, number, new
            elif number // per_layer == old:
                yield module, name, number, number + (new - old) * per_layer
            else:
                raise InputError(
                    f"layers of {type(module).__name__} cannot be dropped: {name} {number} of layer {old} is not its "
                    "number; choose another model"
                )


def _own_numbers(layer: nn.Module) -> Iterator[tuple[nn.Module, str, int]]:
    for module in layer.modules():
        for name in LAYER_NUMBERS:
            number = getattr(module, name, None)
            if isinstance(number, int) and number >= 0:
                yield module, name, number


def kept_layers(num_layers: int, dropped: Sequence[int]) -> list[int]:
    """Return the remaining layers in order.

    Raises:
        InputError: a layer does not exist, or no layer would remain.
    """
    unknown = [layer for layer in dropped if not 0 <= layer < num_layers]
    if unknown:
        raise InputError(f"layer {unknown[0]} cannot be dropped: the layers are 0 to {num_layers - 1}")
    kept = [layer for layer in range(num_layers) if layer not in set(dropped)]
    if not kept:
        raise InputError(f"dropping all {num_layers} layers leaves none; drop fewer")
    return kept


def set_layers(model: LoadedModel, layers: nn.Module) -> None:
    """Replace the network's list of layers."""
    path, _, name = model.anatomy.path.rpartition(".")
    setattr(model.network.get_submodule(path), name, layers)


def check_causal(config: Any, name: str) -> None:
    """Check that a model is a causal language model, possibly with additional towers for images or sound.

    Raises:
        InputError: it is not.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    text = config.get_text_config()
    bidirectional = type(text) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(text, "is_decoder", False)
    if class_with_head(config) is None or bidirectional or config.is_encoder_decoder:
        raise InputError(
            f"model.source {name!r} ({config.model_type}) is not a causal language model; choose one that is"
        )


def check_prunable(config: Any, name: str) -> None:
    """Check that a model is a causal language model whose configuration can describe it without some layers.

    Raises:
        InputError: it is not a causal language model, or its computation depends on the depth of a layer in a way that
            no configuration can express.
    """
    check_causal(config, name)
    _check_independent_layers(config.get_text_config(), name)


def _check_independent_layers(text: Any, name: str) -> None:
    """Check that no field of a text model's configuration makes its layers depend on each other or on their number."""
    if getattr(text, "scale_attn_by_inverse_layer_idx", False):
        raise InputError(
            f"model.source {name!r} cannot be pruned: it scales attention by the number of the layer "
            "(scale_attn_by_inverse_layer_idx), which dropping layers would change; choose another model"
        )
    for shared in SHARED_BETWEEN_LAYERS:
        if getattr(text, shared, 0):
            raise InputError(
                f"model.source {name!r} cannot be pruned: its layers depend on each other ({shared} "
                f"{getattr(text, shared)}); choose another model"
            )
    for step in STEPS:
        if isinstance(value := getattr(text, step, None), int) and value > 1:
            raise InputError(
                f"model.source {name!r} cannot be pruned: it places its layers by {step} {value}, and no configuration "
                "can describe it without some of them; choose another model"
            )


def _configs(network: nn.Module) -> list[Any]:
    """Return every distinct configuration of the text model that a module of the network holds."""
    own: Any = network.config
    kind = type(own.get_text_config())
    configs: dict[int, Any] = {}
    for module in network.modules():
        config: Any = getattr(module, "config", None)
        if hasattr(config, "get_text_config"):
            text = config.get_text_config()
            # A vision tower has layers of its own.
            if isinstance(text, kind):
                configs[id(text)] = text
    return list(configs.values())


def _changed_fields(config: Any, kept: Sequence[int], num_layers: int) -> dict[str, Any]:
    """Return the fields of a configuration that dropping layers changes, with their new values."""
    _check_independent_layers(config, config.model_type)
    fields: Mapping[str, Any] = config.to_dict()
    renumber = {old: new for new, old in enumerate(kept)}
    change: dict[str, Any] = {layers_field(config): len(kept)}
    for name, value in fields.items():
        if name in INDEX_LISTS and isinstance(value, list):
            change[name] = [renumber[layer] for layer in value if layer in renumber]
        elif name in COUNTS and value == num_layers:
            change[name] = len(kept)
        elif name in DEPTH_SCALES and isinstance(value, int | float):
            change[name] = value * (len(kept) / num_layers) ** 0.5
        elif name == PER_LAYER and isinstance(value, dict):
            change[name] = {renumber[int(layer)]: v for layer, v in value.items() if int(layer) in renumber}
        elif name in REPEATED and isinstance(value, list | tuple) and value:
            change[name] = [value[layer % len(value)] for layer in kept]
        elif name in SPANS and isinstance(value, int):
            change |= _renumbered_span(name, value, fields[SPANS[name]], kept)
        elif name == KV_SOURCES and isinstance(value, list):
            change[name] = _renumbered_sources(value, renumber, config.model_type)
        elif name in COUNTED_FROM_THE_START and isinstance(value, int):
            change[name] = sum(layer < value for layer in kept)
        elif isinstance(value, list | tuple) and len(value) == num_layers and not name.endswith(("_id", "_ids")):
            change[name] = [value[layer] for layer in kept]
    return change


def _current_fields(config: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of fields; settings by layer are returned as a dictionary that can be assigned again."""
    return {name: config.to_dict().get(name) if name == PER_LAYER else getattr(config, name) for name in names}


def _renumbered_span(name: str, first: int, last: int, kept: Sequence[int]) -> dict[str, int]:
    """Return the new fields of a span of layers; a span without kept layers is placed after the last layer."""
    inside = [new for new, old in enumerate(kept) if first <= old <= last]
    return {name: inside[0] if inside else len(kept), SPANS[name]: inside[-1] if inside else len(kept)}


def _renumbered_sources(sources: Sequence[int], renumber: Mapping[int, int], model_type: str) -> list[int]:
    """Return the layer whose keys and values each kept layer uses, which must be the layer itself."""
    if any(sources[layer] != layer for layer in renumber):
        raise InputError(
            f"model type {model_type} cannot be pruned: its layers use keys and values of others ({KV_SOURCES}); "
            "choose another model"
        )
    return list(renumber.values())


def _copied_fields(
    network: nn.Module, changes: Sequence[tuple[Any, Mapping[str, Any]]], kept: Sequence[int]
) -> Iterator[tuple[nn.Module, str, Any, Any]]:
    """Yield (module, name, old value, new value) of each attribute that is a copy of a field that changes."""
    fields = {id(config): (config, change) for config, change in changes}
    for module in network.modules():
        config, change = fields.get(id(getattr(module, "config", None)), (None, {}))
        for name, value in change.items():
            if name in vars(module) and vars(module)[name] == getattr(config, name):
                yield module, name, vars(module)[name], value
            elif name in INDEX_LISTS:
                yield from _derived_fields(module, getattr(config, name), kept)


def _derived_fields(
    module: nn.Module, layers: Sequence[int], kept: Sequence[int]
) -> Iterator[tuple[nn.Module, str, Any, Any]]:
    """Yield (module, name, old value, new value) of attributes derived from a list of layers: a copy, or positions.

    Kept layers keep their positions, which are their indices into shared weights.
    """
    renumber = {old: new for new, old in enumerate(kept)}
    positions = {layer: place for place, layer in enumerate(layers)}
    for name, value in vars(module).items():
        if isinstance(value, list) and value and value == layers:
            yield module, name, value, [renumber[layer] for layer in value if layer in renumber]
        elif isinstance(value, dict) and value and value == positions:
            yield module, name, value, {renumber[layer]: value[layer] for layer in value if layer in renumber}


def _apply(changes: Sequence[tuple[Any, Mapping[str, Any]]]) -> None:
    for config, change in changes:
        for name, value in change.items():
            setattr(config, name, value)
