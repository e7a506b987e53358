"""What training changed: the tensors of the trained layers, by their names in the whole model."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from stratoscope.errors import RunError
from stratoscope.mitigation.parameters import TrainableSpec, open_parameters, tensor_digests
from stratoscope.mitigation.training import TAG, TrainingSettings
from stratoscope.models import LoadedModel, kept_layers, without_layers

Patch = dict[str, torch.Tensor]
PREFIX = "network."
"""Of the network in the module that DeepSpeed saw."""


def make_patch(folder: Path, settings: TrainingSettings) -> Patch:
    """Put the workers' parts of the last checkpoint together, adapters merged into the weights that they belong to.

    Args:
        folder: the checkpoint.
        settings: with which it was trained.

    Returns:
        Every tensor of the trained layers, named as in the whole model.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    found = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
    state = {name.removeprefix(PREFIX): tensor for name, tensor in found.items()}
    model = settings.loading.load(head=True)
    kept = kept_layers(len(model.anatomy), settings.dropped)
    renumbered = {old: new for new, old in enumerate(kept)}
    layers = tuple(renumbered[layer] for layer in settings.trained.layers)
    with without_layers(model, settings.dropped) as student:
        network = open_parameters(
            student, TrainableSpec(**{**asdict(settings.trained), "layers": layers}), settings.seed
        )
        wanted = {name for name, p in network.named_parameters() if p.requires_grad}
        if wanted - state.keys():
            raise RunError(
                f"the checkpoint lacks {len(wanted - state.keys())} trained tensors, {min(wanted - set(state))}"
            )
        network.load_state_dict({name: state[name] for name in wanted}, strict=False)
        plain: Any = network
        if settings.trained.method == "lora":
            plain = plain.merge_and_unload()
        path = student.anatomy.path
        return {
            f"{path}.{kept[layer]}.{name}": parameter.detach().clone()
            for layer in layers
            for name, parameter in plain.get_submodule(f"{path}.{layer}").named_parameters()
        }


@contextmanager
def patched_weights(model: LoadedModel, patch: Mapping[str, torch.Tensor]) -> Iterator[LoadedModel]:
    """Put trained tensors in the place of a model's own while the block runs.

    Raises:
        RunError: the model has no tensor of that name and shape.
    """
    own = dict(model.network.named_parameters())
    for name, tensor in patch.items():
        if name not in own or own[name].shape != tensor.shape:
            raise RunError(f"the trained tensor {name} does not fit the model; it was trained on another one")
    before = {name: own[name].detach().clone() for name in patch}
    _put(own, patch)
    try:
        yield model
    finally:
        _put(own, before)


def _put(own: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def check_frozen(before: LoadedModel, folder: Path, layers: Sequence[int], dropped: Sequence[int]) -> int:
    """See that a checkpoint differs from the model that it was trained from in the trained layers alone.

    Args:
        before: the whole model, as it was.
        folder: the checkpoint.
        layers: those that were trained, as the whole model numbers them.
        dropped: those that the checkpoint lacks.

    Returns:
        How many tensors are equal to the bit.

    Raises:
        RunError: another tensor was changed.
    """
    from safetensors.torch import load_file

    own = tensor_digests(before.network.state_dict())
    path = before.anatomy.path
    kept = kept_layers(len(before.anatomy), dropped)
    pattern = re.compile(rf"^{re.escape(path)}\.(\d+)\.")
    same = 0
    for file in sorted(folder.glob("*.safetensors")):
        for name, value in tensor_digests(load_file(file)).items():
            found = pattern.match(name)
            layer = kept[int(found[1])] if found else None
            original = pattern.sub(f"{path}.{layer}.", name) if found else name
            if layer in layers:
                continue
            if own.get(original) != value:
                raise RunError(f"{name} was to be frozen and is another tensor in the checkpoint")
            same += 1
    return same
