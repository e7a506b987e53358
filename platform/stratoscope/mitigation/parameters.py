"""What of a model is trained: some layers whole, or low-rank adapters on them; all else is frozen."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from stratoscope.errors import InputError
from stratoscope.models import LayerLayout, LoadedModel

if TYPE_CHECKING:
    from peft import PeftModel

Method = Literal["whole", "lora"]


@dataclass(frozen=True)
class TrainableSpec:
    """Which parameters are trained."""

    layers: tuple[int, ...]
    """As the model numbers them that is trained."""
    method: Method = "whole"
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0


def open_parameters(model: LoadedModel, trained: TrainableSpec, seed: int) -> "nn.Module":
    """Freeze a model but for what is to be trained.

    Args:
        model: changed in place.
        trained: what is to be trained.
        seed: of the adapters' first weights.

    Returns:
        The network, wrapped by peft where it has adapters.

    Raises:
        InputError: a layer has nothing that an adapter fits.
    """
    network: nn.Module = model.network
    network.requires_grad_(False)
    if trained.method == "lora":
        adapted: nn.Module = _with_adapters(model, trained, seed)
        return adapted
    for layer in trained.layers:
        for parameter in model.anatomy.blocks[layer].module.parameters():
            if not parameter.is_floating_point():
                raise InputError("a quantised model's layers cannot be trained whole; take --parameters.method lora")
            parameter.requires_grad_(True)
    return network


def linear_names(anatomy: LayerLayout, layers: Sequence[int]) -> list[str]:
    """Return the names of all linear maps inside some layers, as peft's target_modules takes them."""
    found = {
        name.rpartition(".")[2]
        for layer in layers
        for name, module in anatomy.blocks[layer].module.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return sorted(found)


def _with_adapters(model: LoadedModel, trained: TrainableSpec, seed: int) -> "PeftModel":
    from peft import LoraConfig, get_peft_model

    targets = linear_names(model.anatomy, trained.layers)
    if not targets:
        raise InputError("parameters.method lora: the layers hold no linear map that an adapter fits; train them whole")
    torch.manual_seed(seed)
    config = LoraConfig(
        r=trained.rank,
        lora_alpha=trained.alpha,
        lora_dropout=trained.dropout,
        target_modules=targets,
        layers_to_transform=list(trained.layers),
        layers_pattern=model.anatomy.path.rpartition(".")[2],
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.network.modules()),
    )
    wrapped: PeftModel = get_peft_model(model.network, config)
    return wrapped


def tensor_digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return a digest of every tensor's bytes, by name."""
    return {name: _digest(tensor) for name, tensor in tensors.items()}


def _digest(tensor: torch.Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(content.tobytes(), digest_size=16).hexdigest()
