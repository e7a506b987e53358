"""Speed and usual device of this machine, for the estimates of a dry run."""

import time
from functools import cache

import torch

PROCESS_BYTES = 700e6
"""Memory of a worker process before it loads a model: Python, torch and transformers."""
GPU_FLOPS = 150e12
"""Conservative speed of a data-centre GPU in bfloat16. The speed of GPUs is assumed, not measured."""


def usual_device() -> str:
    """Return the kind of device that jobs use on this machine."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@cache
def operations_per_second(device: str) -> float:
    """Return the floating-point operations per second of a matrix product: measured on a CPU, assumed for a GPU."""
    if device == "cuda":
        return GPU_FLOPS
    a = torch.ones(1024, 1024)
    a @ a
    start = time.perf_counter()
    for _ in range(5):
        a @ a
    return 5 * 2 * 1024**3 / (time.perf_counter() - start)
