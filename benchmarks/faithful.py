"""Measure plain and faithful training of TimeSieve against a straightforward implementation of the papers.

The baseline follows the authors' public code: every batch passes through the wavelet in NumPy and through all four maps
of the predictor, during ascents too; the teacher forecasts every batch anew; Adam is not fused. Both implementations
have equal losses (tests/forecasting/test_straightforward.py). Batches are paired, in alternating order, and the median
of their ratios is printed; an epoch has as many batches as the training part. Our single forecast of the teacher, one
pass in all epochs, is not counted.

usage: python benchmarks/faithful.py SERIES [--horizons N ...] [--batches N] [--threads N] [--device D]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pywt
import torch
from torch import nn
from torch.nn import functional

from stratoscope.data import SeriesSource, load_series
from stratoscope.forecasting import AscentSettings, FaithfulLoss, FitSettings, TimeSieve, TimeSieveSettings, Windows
from stratoscope.forecasting.faithful import distance, faithful_loss

BATCH = 32
RATE = 1e-4
ASCENT = AscentSettings()
Tensor = torch.Tensor


class NumpyWavelet(torch.autograd.Function):
    """The wavelet transform by PyWavelets; the gradient of an orthogonal transform is its inverse."""

    @staticmethod
    def forward(_context: Any, series: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(pywt.dwt(series.detach().cpu().numpy(), "db1"))).to(series.device)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return torch.from_numpy(pywt.idwt(*gradients[0].cpu().numpy(), "db1")).to(gradients[0].device)


class NumpyInverse(torch.autograd.Function):
    """The inverse transform."""

    @staticmethod
    def forward(_context: Any, halves: Tensor) -> Tensor:
        return torch.from_numpy(pywt.idwt(*halves.detach().cpu().numpy(), "db1")).to(halves.device)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(pywt.dwt(gradients[0].cpu().numpy(), "db1"))).to(gradients[0].device)


class Straightforward(nn.Module):
    """A TimeSieve computed step by step.

    Args:
        model: the TimeSieve whose weights it copies.
    """

    def __init__(self, model: TimeSieve) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)

    def forward(self, series: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the forecast, the bottlenecks' loss, and the reconstructed series."""
        halves = NumpyWavelet.apply(series.transpose(1, 2).contiguous())
        blocks = (self.model.approximation, self.model.detail)
        sieved = [block(half) for block, half in zip(blocks, halves, strict=True)]
        outputs = torch.stack([s.output + half for s, half in zip(sieved, halves, strict=True)])
        rebuilt = NumpyInverse.apply(outputs)
        values = rebuilt
        for layer in self.model.predictor.maps:
            values = layer(values)
        return values.transpose(1, 2), sum(s.loss.sum() for s in sieved), rebuilt.transpose(1, 2)

    def plain_loss(self, windows: Tensor, target: Tensor) -> Tensor:
        """Return the loss of plain training."""
        values, loss, _ = self(windows)
        return functional.l1_loss(values, target) + loss

    def faithful_loss(self, windows: Tensor, target: Tensor, teacher: "Straightforward", start: Tensor) -> Tensor:
        """Return the loss of faithful training, with the ascent from a given start."""
        delta = start.clamp(-ASCENT.radius, ASCENT.radius)
        for _ in range(ASCENT.steps):
            delta.requires_grad_(True)
            loss = functional.l1_loss(self(windows + delta)[0], target)
            (gradient,) = torch.autograd.grad(loss, delta)
            delta = (delta.detach() + ASCENT.step * gradient.sign()).clamp(-ASCENT.radius, ASCENT.radius)
        perturbed, model_loss, perturbed_latent = self(windows + delta)
        clean, _, latent = self(windows)
        with torch.no_grad():
            teacher_forecast = teacher(windows)[0]
        loss = functional.l1_loss(perturbed, target) + model_loss + functional.l1_loss(clean, teacher_forecast)
        return loss + 0.05 * functional.l1_loss(perturbed, clean) + 0.05 * functional.l1_loss(perturbed_latent, latent)


def time_step(step: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Return the seconds of a training step."""
    wait()
    started = time.perf_counter()
    optimizer.zero_grad()
    loss = step()
    loss.backward()
    optimizer.step()
    wait()
    return time.perf_counter() - started


def wait() -> None:
    """Wait until a GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(windows: Windows, num_batches: int) -> None:
    """Print the rows of a horizon."""
    torch.manual_seed(0)
    device = windows.values.device
    model = TimeSieve(windows.lookback, windows.horizon, TimeSieveSettings()).train().to(device)
    baseline = Straightforward(model).train()
    teacher = copy.deepcopy(baseline).eval()
    fast = torch.optim.Adam(model.parameters(), lr=FitSettings().learning_rate, fused=True)
    slow = torch.optim.Adam(baseline.parameters(), lr=RATE, foreach=False)
    epoch = -(-len(windows) // BATCH)
    seconds: dict[str, list[tuple[float, float]]] = {"plain": [], "faithful": []}
    order = torch.split(torch.randperm(len(windows)).to(device), BATCH)
    for number in range(num_batches + 1):
        batch, target = windows.batch(order[number])
        teacher_forecast = teacher(batch)[0].detach()
        start = ASCENT.radius * torch.randn(batch.shape, generator=torch.Generator().manual_seed(number))
        start = start.to(device)

        def plain(batch: Tensor = batch, target: Tensor = target) -> Tensor:
            forecast = model(batch)
            return distance(forecast.values, target).mean() + forecast.batch_loss(forecast.loss)

        def faithful(
            batch: tuple[Tensor, Tensor, Tensor] = (batch, target, teacher_forecast), seed: int = number
        ) -> Tensor:
            return faithful_loss(model, batch, FaithfulLoss(), torch.Generator().manual_seed(seed))

        steps: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
            "plain": (plain, lambda b=batch, t=target: baseline.plain_loss(b, t)),
            "faithful": (faithful, lambda b=batch, t=target, s=start: baseline.faithful_loss(b, t, teacher, s)),
        }
        for name, both in steps.items():
            sides = [(0, fast), (1, slow)] if number % 2 else [(1, slow), (0, fast)]
            times = {side: time_step(both[side], optimizer) for side, optimizer in sides}
            if number:
                seconds[name].append((times[0], times[1]))
    for name, pairs in seconds.items():
        ours, other = (statistics.median(pair[side] for pair in pairs) * epoch for side in (0, 1))
        ratios = sorted(pair[1] / pair[0] for pair in pairs)
        print(
            f"| {windows.horizon} | {name} | {other:.0f} s | {ours:.0f} s | {statistics.median(ratios):.1f} "
            f"({ratios[0]:.1f} to {ratios[-1]:.1f}, {len(ratios)} pairs) |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series")
    parser.add_argument("--horizons", type=int, nargs="+", default=[48, 96])
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    series = load_series(SeriesSource(arguments.series))
    print("| horizon | training | straightforward, an epoch | ours | ratio |\n|---|---|---|---|---|")
    for horizon in arguments.horizons:
        starts = torch.from_numpy(series.starts("train", 2 * horizon, horizon)).to(arguments.device)
        values = torch.from_numpy(series.values).to(arguments.device)
        measure(Windows(values, starts, 2 * horizon, horizon), arguments.batches)


if __name__ == "__main__":
    main()
