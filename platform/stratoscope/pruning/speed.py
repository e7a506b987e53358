"""Speed of a model without some layers, in forward passes, compared with the whole model's."""

from collections.abc import Sequence

import torch

from stratoscope.models import LoadedModel, without_layers
from stratoscope.models.speed import SpeedComparison, compare_runs, timed

BATCH_SHAPE = (4, 128)
"""Sequences and tokens of a forward pass."""
FORWARD_PASS = "forward pass"
"""Name of the measurement."""


def compare_speed(model: LoadedModel, dropped: Sequence[int]) -> SpeedComparison:
    """Return the speed of forward passes without some layers, in tokens per second, against that of the whole model.

    This is the one measure of speed in a search's trials, report, terminal and model card. The passes are over one
    batch, without the vocabulary head, and paired with passes of the whole model.
    """
    ids = torch.randint(0, model.network.config.get_text_config().vocab_size, BATCH_SHAPE).to(model.device)

    def run(layers: Sequence[int]) -> float:
        with torch.inference_mode(), without_layers(model, layers) as network:
            return timed(lambda: network.backbone(ids, use_cache=False), model.device)

    return compare_runs(
        FORWARD_PASS, "tokens/s", (lambda: run(()), lambda: run(dropped)), lambda seconds: ids.numel() / seconds
    )
