"""Speed of a forward pass without some layers."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from stratoscope.models import LoadedModel, without_layers

BATCH_SHAPE = (4, 128)
NUM_RUNS = 5


def tokens_per_second(model: LoadedModel, dropped: Sequence[int]) -> float:
    """Return tokens per second of a forward pass without the vocabulary head, the median of several runs."""
    ids = torch.randint(0, model.network.config.get_text_config().vocab_size, BATCH_SHAPE).to(model.device)
    seconds = []
    with torch.inference_mode(), without_layers(model, dropped) as pruned:
        for _ in range(NUM_RUNS):
            start = time.perf_counter()
            pruned.backbone(ids, use_cache=False)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return ids.numel() / float(np.median(seconds))
