"""Measured speed of forecasters, for estimates of how long a grid takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stratoscope.forecasting.ascent import AscentSettings, ascend
from stratoscope.forecasting.faithful import attack_objective, error_of, frozen
from stratoscope.forecasting.options import Error


@dataclass(frozen=True)
class ForecasterSpeed:
    """Speed of a forecaster on one thread of this machine."""

    train: float
    """Seconds of a training step on one batch."""
    ascent: float
    """Seconds of an ascent step on one batch."""
    num_parameters: int


def measure_speed(model: nn.Module, inputs: Tensor, target: Tensor, error: Error) -> ForecasterSpeed:
    """Time training and ascent steps of a forecaster on one thread; training changes its weights.

    Args:
        model: forecaster, whose forward pass returns a `Forecast`.
        inputs: windows of a batch, shape (B, T, C).
        target: values that follow them, shape (B, H, C).
        error: training loss.
    """
    weights = list(model.parameters())
    optimizer = torch.optim.Adam(weights, fused=True) if weights else None

    def train() -> None:
        loss = error_of(model(inputs).values, target, error).mean()
        if optimizer is not None:
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    def climb(steps: int) -> None:
        with frozen(model):
            objective = attack_objective(model, inputs, target, "error")
            ascend(objective, inputs, AscentSettings(steps=steps), torch.Generator().manual_seed(0))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # The difference leaves out the set-up of an ascent.
        ascent_step = max(0.0, _seconds(lambda: climb(6)) - _seconds(lambda: climb(1))) / 5
        return ForecasterSpeed(_seconds(train), ascent_step, sum(p.numel() for p in weights))
    finally:
        torch.set_num_threads(threads)


def _seconds(call: Callable[[], None]) -> float:
    """Return the duration of a call: the faster of two after a warm-up."""
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return min(durations[1:])
