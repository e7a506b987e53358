"""Forward passes: the layers of a model alone, or with its vocabulary head at chosen positions."""

import inspect
import time

import torch
from torch import Tensor

from stratoscope.activations.trial import position_of_first
from stratoscope.models import LoadedModel, logits_at

SAMPLE_LENGTH = 128
"""Tokens of a row of the batches that are timed."""
FREE_SHARE = 0.1
"""Share of a GPU's memory that a pass leaves free, for the statistics of a batch."""


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
        keep: true where predictions are wanted, shape (B, S), on the host.

    Returns:
        Logits at the kept positions in order of rows, shape (kept, vocabulary).
    """
    extra = _extra(model, model.network, attention_mask)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **extra}
    return logits_at(model.network, keep, model.device, **inputs)


def _extra(model: LoadedModel, network: torch.nn.Module, attention_mask: Tensor) -> dict[str, object]:
    """Return the further arguments of a network besides ids and mask, as far as it accepts them."""
    extra: dict[str, object] = {"use_cache": False}
    first = position_of_first(model.backbone)
    if first is not None:
        extra["position_ids"] = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0) + first
    accepted = inspect.signature(network.forward).parameters
    return {name: value for name, value in extra.items() if name in accepted}


def measure_rate(model: LoadedModel, tokens: int) -> float | None:
    """Measure the tokens per second of a pass through the layers alone, without padding.

    Returns:
        The rate; None where the pass does not fit into the memory of the device, or leaves too little of it.
    """
    vocabulary: int = model.network.get_input_embeddings().weight.shape[0]
    length = min(SAMPLE_LENGTH, tokens)
    ids = torch.arange(max(1, tokens // length) * length, device=model.device).view(-1, length) % vocabulary
    try:
        _time_pass(model, ids)
        seconds = min(_time_pass(model, ids) for _ in range(2))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    if model.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(model.device)
        if free < FREE_SHARE * total:
            torch.cuda.empty_cache()
            return None
    return float(ids.numel() / seconds)


@torch.inference_mode()
def _time_pass(model: LoadedModel, ids: Tensor) -> float:
    _wait_for(model.device)
    start = time.perf_counter()
    run_backbone(model, ids, torch.ones_like(ids))
    _wait_for(model.device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
