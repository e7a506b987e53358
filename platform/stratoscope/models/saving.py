"""Writing a network as a checkpoint."""

import sys
from pathlib import Path
from typing import Any

from torch import nn


def save_network(network: nn.Module, folder: Path) -> None:
    """Write a transformers model as `save_pretrained` does, without importing DeepSpeed for it.

    To see whether a model is wrapped by it, transformers imports DeepSpeed wherever that is installed, which takes two
    seconds and writes to stdout. No model here is.
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
