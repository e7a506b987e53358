"""Comparison of a pruned network with one that is built from its configuration, without reading any weights."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from stratoscope.models.classes import build_empty
from stratoscope.models.load import LoadedModel

NUMBERING = ("layer_idx", "layer_id", "layer_num", "layer_number", "layer_index", "num_hidden_layers")
"""Attributes that hold the number of a layer, or of all layers, and nothing else."""
TRAINING = ("seed", "training")
"""Attributes that only training uses."""
NAMED = 3
"""Largest number of differences that a message names."""


def differences(pruned: LoadedModel, config: Any = None, *, constants: bool = True) -> str:
    """Return how a pruned network differs from the one that its configuration describes; empty if it does not.

    First, the names and shapes of weights are compared; then the other constants of the layers' modules: numbers,
    strings and buffers that are not saved. A constant that depends on the position of a layer, or on the number of
    layers, differs there although the weights fit.

    Args:
        pruned: the pruned model, whose weights may be on any device.
        config: configuration to compare with; None compares with a copy of the network's own.
        constants: whether to compare the constants that are not weights.
    """
    network = pruned.network
    if config is None:
        config = type(network.config).from_dict(network.config.to_dict())
    built = build_empty(type(network), config)
    shapes, expected = (
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} for model in (built, network)
    )
    wrong = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
    if constants and not wrong:
        path = pruned.anatomy.path
        ours, theirs = (dict(_constants(model.get_submodule(path))) for model in (network, built))
        wrong = [f"{path}.{name}" for name in ours if name in theirs and not _equal(ours[name], theirs[name])]
    return ", ".join(wrong[:NAMED])


def _constants(layers: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield name and value of all constants that no checkpoint holds, except layer numbers and training attributes."""
    for path, module in layers.named_modules():
        values: Mapping[str, Any] = vars(module) | {
            name: module._buffers.get(name) for name in module._non_persistent_buffers_set
        }
        for name, value in values.items():
            if name not in (*NUMBERING, *TRAINING) and not name.startswith("_") and _is_constant(value):
                yield f"{path}.{name}", value


def _is_constant(value: Any) -> bool:
    if isinstance(value, list | tuple | set):
        return all(_is_constant(element) for element in value)
    if isinstance(value, dict):
        return all(_is_constant(element) for element in value.values())
    return value is None or isinstance(value, bool | int | float | str | torch.Tensor)


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, torch.Tensor):
        return isinstance(theirs, torch.Tensor) and _equal_tensors(ours, theirs)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        # A list with one entry per layer has another length in a model with fewer layers.
        return len(ours) != len(theirs) or all(map(_equal, ours, theirs))
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-12) or (math.isnan(ours) and math.isnan(theirs))
    return bool(ours == theirs)


def _equal_tensors(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    if "meta" in (ours.device.type, theirs.device.type):
        return True
    return torch.equal(ours.cpu().nan_to_num(), theirs.cpu().nan_to_num().to(ours.dtype))
