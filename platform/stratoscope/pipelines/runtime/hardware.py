"""What this machine can do, for the estimates of a dry run."""

import time

import torch

PROCESS_BYTES = 700e6
"""Of a worker before it holds a model: Python, torch and transformers."""
GPU_FLOPS = 150e12
"""A modest guess for a data-centre GPU in bfloat16, for machines that have none to measure."""


def usual_device() -> str:
    """Return the kind of device that work here would take."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def operations_per_second(device: str) -> float:
    """Measure how many operations a second this machine's matrix product does; guess for a GPU."""
    if device == "cuda":
        return GPU_FLOPS
    a = torch.ones(1024, 1024)
    a @ a
    start = time.perf_counter()
    for _ in range(5):
        a @ a
    return 5 * 2 * 1024**3 / (time.perf_counter() - start)
