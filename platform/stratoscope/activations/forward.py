"""Forward passes: the layers of a model alone, or with its vocabulary head at chosen positions."""

import inspect

import torch
from torch import Tensor

from stratoscope.activations.trial import position_of_first
from stratoscope.models import LoadedModel


def run_backbone(model: LoadedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
    """Run all layers of a model once, without its vocabulary head and without a key-value cache.

    Args:
        model: the model to run.
        input_ids: token ids on the model's device, shape (B, S), padded on either side.
        attention_mask: 1 for a token and 0 for padding, shape (B, S), on the model's device.
    """
    model.backbone(input_ids=input_ids, attention_mask=attention_mask, **_extra(model, model.backbone, attention_mask))


def run_head(model: LoadedModel, input_ids: Tensor, attention_mask: Tensor, keep: Tensor) -> Tensor:
    """Run a model once, its vocabulary head at chosen positions alone.

    Args:
        model: with its head.
        input_ids: token ids on the model's device, shape (B, S), padded on either side.
        attention_mask: 1 for a token and 0 for padding, shape (B, S), on the model's device.
        keep: true where predictions are wanted, shape (B, S), on the model's device.

    Returns:
        Logits at the kept positions in order of rows, shape (kept, vocabulary).
    """
    extra = _extra(model, model.network, attention_mask)
    output = model.network(input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=keep, **extra)
    logits: Tensor = output.logits
    return logits.reshape(-1, logits.shape[-1])


def _extra(model: LoadedModel, network: torch.nn.Module, attention_mask: Tensor) -> dict[str, object]:
    """Return what a network is told besides ids and mask, where it takes that."""
    extra: dict[str, object] = {"use_cache": False}
    first = position_of_first(model.backbone)
    if first is not None:
        extra["position_ids"] = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0) + first
    accepted = inspect.signature(network.forward).parameters
    return {name: value for name, value in extra.items() if name in accepted}
