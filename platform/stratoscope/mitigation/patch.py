"""Patches: the tensors of the trained layers, by their names in the whole model."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stratoscope.errors import RunError
from stratoscope.mitigation.parameters import tensor_digests, unfreeze
from stratoscope.mitigation.training import TAG, TrainingSettings
from stratoscope.models import LoadedModel, kept_layers, without_layers

Patch = dict[str, torch.Tensor]
"""Trained tensors by their names in the whole model."""
PREFIX = "network."
"""Prefix of the network's parameters in the module that DeepSpeed trained."""


def read_trained(folder: Path) -> dict[str, torch.Tensor]:
    """Assemble the trained tensors, adapters not merged, from a checkpoint's parts; names are as in training."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    parameters = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
    return {name.removeprefix(PREFIX): tensor for name, tensor in parameters.items()}


def make_patch(state: Mapping[str, torch.Tensor], settings: TrainingSettings) -> Patch:
    """Make a patch of trained tensors, with adapters merged into their weights.

    Args:
        state: the tensors of a checkpoint.
        settings: settings of the training.

    Returns:
        All tensors of the trained layers, named as in the whole model.

    Raises:
        RunError: the checkpoint lacks a trained tensor.
    """
    model = settings.loading.load(head=True)
    kept = kept_layers(len(model.anatomy), settings.dropped)
    trainable = settings.renumbered(len(model.anatomy))
    with without_layers(model, settings.dropped) as student:
        network = unfreeze(student, trainable, settings.seed)
        names = {name for name, p in network.named_parameters() if p.requires_grad}
        if missing := names - state.keys():
            raise RunError(f"the checkpoint lacks {len(missing)} trained tensors, {min(missing)}")
        network.load_state_dict({name: state[name] for name in names}, strict=False)
        plain: Any = network
        if trainable.method == "lora":
            plain = plain.merge_and_unload()
        path = student.anatomy.path
        return {
            f"{path}.{kept[layer]}.{name}": parameter.detach().clone()
            for layer in trainable.layers
            for name, parameter in plain.get_submodule(f"{path}.{layer}").named_parameters()
        }


@contextmanager
def patched_weights(model: LoadedModel, patch: Mapping[str, torch.Tensor]) -> Iterator[LoadedModel]:
    """Replace tensors of a model by trained ones while the block runs.

    Raises:
        RunError: the model has no tensor of the same name and shape.
    """
    own = dict(model.network.named_parameters())
    for name, tensor in patch.items():
        if name not in own or own[name].shape != tensor.shape:
            raise RunError(f"the trained tensor {name} does not fit the model; it belongs to another model")
    before = {name: own[name].detach().clone() for name in patch}
    _copy(patch, own)
    try:
        yield model
    finally:
        _copy(before, own)


def _copy(tensors: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.nn.Parameter]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def check_frozen(before: LoadedModel, folder: Path, layers: Sequence[int], dropped: Sequence[int]) -> int:
    """Check that a checkpoint differs from the model that it was trained from in the trained layers only.

    Args:
        before: the whole model before training.
        folder: the checkpoint.
        layers: trained layers, as the whole model numbers them.
        dropped: layers that the checkpoint lacks.

    Returns:
        Number of bit-identical tensors.

    Raises:
        RunError: another tensor has changed.
    """
    from safetensors.torch import load_file

    own = tensor_digests(before.network.state_dict())
    path = before.anatomy.path
    kept = kept_layers(len(before.anatomy), dropped)
    pattern = re.compile(rf"^{re.escape(path)}\.(\d+)\.")
    same = 0
    for file in sorted(folder.glob("*.safetensors")):
        for name, value in tensor_digests(load_file(file)).items():
            match = pattern.match(name)
            layer = kept[int(match[1])] if match else None
            original = pattern.sub(f"{path}.{layer}.", name) if match else name
            if layer in layers:
                continue
            if own.get(original) != value:
                raise RunError(f"{name} was frozen but differs in the checkpoint")
            same += 1
    return same
