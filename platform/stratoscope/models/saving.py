"""Saving of networks as checkpoints."""

import sys
from pathlib import Path
from typing import Any

from torch import nn


def save_network(network: nn.Module, folder: Path) -> None:
    """Save a transformers model like `save_pretrained`, without importing DeepSpeed.

    transformers imports DeepSpeed, if installed, to check whether it wraps the model, which takes two seconds and
    writes to stdout. It wraps no model here.
    """
    modules: dict[str, Any] = sys.modules
    hidden = "deepspeed" not in modules
    if hidden:
        modules["deepspeed"] = None
    try:
        saved: Any = network
        saved.save_pretrained(folder)
    finally:
        if hidden:
            del modules["deepspeed"]
