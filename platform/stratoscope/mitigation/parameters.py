"""The trained parameters of a model: some layers in full, or low-rank adapters on them; all others are frozen."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from stratoscope.errors import InputError
from stratoscope.mitigation.options import Method
from stratoscope.models import LayerLayout, LoadedModel

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class TrainableSpec:
    """The trained parameters."""

    layers: tuple[int, ...]
    """Numbers of the trained layers."""
    method: Method = "whole"
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0


def unfreeze(model: LoadedModel, trainable: TrainableSpec, seed: int) -> "nn.Module":
    """Freeze all parameters of a model except the trained ones.

    Args:
        model: changed in place.
        trainable: the parameters to train.
        seed: seed of the adapters' initial weights.

    Returns:
        The network, wrapped by peft where it has adapters.

    Raises:
        InputError: no adapter fits the layers, or they are quantised.
    """
    network: nn.Module = model.network
    network.requires_grad_(False)
    if trainable.method == "lora":
        adapted: nn.Module = _add_adapters(model, trainable, seed)
        return adapted
    for layer in trainable.layers:
        for parameter in model.anatomy.blocks[layer].module.parameters():
            if not parameter.is_floating_point():
                raise InputError("quantised layers cannot be trained in full; use --parameters.method lora")
            parameter.requires_grad_(True)
    return network


def linear_names(anatomy: LayerLayout, layers: Sequence[int]) -> list[str]:
    """Return the names of all linear modules of some layers in the network, as peft's target_modules takes them."""
    return [
        f"{anatomy.path}.{layer}.{name}"
        for layer in layers
        for name, module in anatomy.blocks[layer].module.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]


def expert_names(anatomy: LayerLayout, layers: Sequence[int]) -> list[str]:
    """Return the names of all weights that hold the matrices of several experts, as target_parameters takes them."""
    return [
        ".".join(filter(None, (anatomy.path, str(layer), path, name)))
        for layer in layers
        for path, module in anatomy.blocks[layer].module.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and parameter.is_floating_point() and not isinstance(module, nn.Conv1d)
    ]


def _add_adapters(model: LoadedModel, trainable: TrainableSpec, seed: int) -> "PeftModel":
    from peft import LoraConfig, get_peft_model

    targets = linear_names(model.anatomy, trainable.layers)
    experts = expert_names(model.anatomy, trainable.layers)
    if not targets and not experts:
        raise InputError(
            "parameters.method lora: the layers have no linear module for an adapter; use --parameters.method whole"
        )
    if experts and trainable.dropout:
        raise InputError(
            f"parameters.dropout {trainable.dropout}: adapters of a mixture's experts have no dropout; use 0"
        )
    torch.manual_seed(seed)
    config = LoraConfig(
        r=trainable.rank,
        lora_alpha=trainable.alpha,
        lora_dropout=trainable.dropout,
        target_modules=targets,
        target_parameters=experts or None,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.network.modules()),
    )
    wrapped: PeftModel = get_peft_model(model.network, config)
    return wrapped


def tensor_digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return a digest of the bytes of every tensor, by name."""
    return {name: _digest(tensor) for name, tensor in tensors.items()}


def _digest(tensor: torch.Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(content.tobytes(), digest_size=16).hexdigest()
