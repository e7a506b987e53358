"""Measure plain and faithful training of TimeSieve against a straightforward implementation of the papers.

The straightforward one does as the authors' public code does: every batch goes through the wavelet in NumPy, and
through all four maps of the predictor, in an ascent too; the teacher is asked anew for every batch; Adam is the plain
one. Both lose the same (tests/forecasting/test_straightforward.py). Batches are
paired, one of each in turn, the first of them by turns, and the median of their ratios is told; an epoch is as many
batches as the training part has. What ours does once for all epochs, asking the teacher, is a pass in ten epochs and
left out.

usage: python benchmarks/faithful.py SERIES [--horizons N ...] [--batches N] [--threads N]
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
    """The wavelet's halves, by PyWavelets; the gradient of an orthogonal transform is its inverse."""

    @staticmethod
    def forward(_context: Any, series: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(pywt.dwt(series.detach().numpy(), "db1")))

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return torch.from_numpy(pywt.idwt(*gradients[0].numpy(), "db1"))


class NumpyInverse(torch.autograd.Function):
    """The way back."""

    @staticmethod
    def forward(_context: Any, halves: Tensor) -> Tensor:
        return torch.from_numpy(pywt.idwt(*halves.detach().numpy(), "db1"))

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(pywt.dwt(gradients[0].numpy(), "db1")))


class Straightforward(nn.Module):
    """A TimeSieve computed as it is written down.

    Args:
        model: whose weights it takes over.
    """

    def __init__(self, model: TimeSieve) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)

    def forward(self, series: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return forecast, the bottlenecks' loss, and the rebuilt series."""
        halves = NumpyWavelet.apply(series.transpose(1, 2).contiguous())
        blocks = (self.model.approximation, self.model.detail)
        sieved = [block(half) for block, half in zip(blocks, halves, strict=True)]
        outputs = torch.stack([s.output + half for s, half in zip(sieved, halves, strict=True)])
        rebuilt = NumpyInverse.apply(outputs)
        found = rebuilt
        for layer in self.model.predictor.maps:
            found = layer(found)
        return found.transpose(1, 2), sum(s.loss.sum() for s in sieved), rebuilt.transpose(1, 2)

    def plain_loss(self, windows: Tensor, target: Tensor) -> Tensor:
        """Return the loss of plain training."""
        values, own, _ = self(windows)
        return functional.l1_loss(values, target) + own

    def faithful_loss(self, windows: Tensor, target: Tensor, teacher: "Straightforward", start: Tensor) -> Tensor:
        """Return the loss of faithful training, its perturbation sought from a start."""
        delta = start.clamp(-ASCENT.radius, ASCENT.radius)
        for _ in range(ASCENT.steps):
            delta.requires_grad_(True)
            loss = functional.l1_loss(self(windows + delta)[0], target)
            (gradient,) = torch.autograd.grad(loss, delta)
            delta = (delta.detach() + ASCENT.step * gradient.sign()).clamp(-ASCENT.radius, ASCENT.radius)
        moved, own, moved_latent = self(windows + delta)
        clean, _, latent = self(windows)
        with torch.no_grad():
            taught = teacher(windows)[0]
        loss = functional.l1_loss(moved, target) + own + functional.l1_loss(clean, taught)
        return loss + 0.05 * functional.l1_loss(moved, clean) + 0.05 * functional.l1_loss(moved_latent, latent)


def timed(step: Callable[[], Tensor], optimiser: torch.optim.Optimizer) -> float:
    """Return the seconds of a step of training."""
    started = time.perf_counter()
    optimiser.zero_grad()
    loss = step()
    loss.backward()
    optimiser.step()
    return time.perf_counter() - started


def measure(windows: Windows, given: argparse.Namespace) -> None:
    """Print a horizon's rows."""
    torch.manual_seed(0)
    ours = TimeSieve(windows.lookback, windows.horizon, TimeSieveSettings()).train()
    theirs = Straightforward(ours).train()
    teacher = copy.deepcopy(theirs).eval()
    fast = torch.optim.Adam(ours.parameters(), lr=FitSettings().learning_rate, fused=True)
    slow = torch.optim.Adam(theirs.parameters(), lr=RATE, foreach=False)
    epoch = -(-len(windows) // BATCH)
    taken: dict[str, list[tuple[float, float]]] = {"plain": [], "faithful": []}
    order = torch.split(torch.randperm(len(windows)), BATCH)
    for number in range(given.batches + 1):
        batch, target = windows.batch(order[number])
        taught = teacher(batch)[0].detach()
        start = ASCENT.radius * torch.randn(batch.shape, generator=torch.Generator().manual_seed(number))

        def plain(batch: Tensor = batch, target: Tensor = target) -> Tensor:
            found = ours(batch)
            return distance(found.values, target).mean() + found.of_batch(found.loss)

        def faithful(
            batch: Tensor = batch, target: Tensor = target, taught: Tensor = taught, n: int = number
        ) -> Tensor:
            return faithful_loss(ours, (batch, target, taught), FaithfulLoss(), torch.Generator().manual_seed(n))

        steps: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
            "plain": (plain, lambda b=batch, t=target: theirs.plain_loss(b, t)),
            "faithful": (faithful, lambda b=batch, t=target, s=start: theirs.faithful_loss(b, t, teacher, s)),
        }
        for name, both in steps.items():
            sides = [(0, fast), (1, slow)] if number % 2 else [(1, slow), (0, fast)]
            seconds = {side: timed(both[side], optimiser) for side, optimiser in sides}
            if number:
                taken[name].append((seconds[0], seconds[1]))
    for name, times in taken.items():
        own, other = (statistics.median(t[side] for t in times) * epoch for side in (0, 1))
        ratios = sorted(t[1] / t[0] for t in times)
        print(
            f"| {windows.horizon} | {name} | {other:.0f} s | {own:.0f} s | {statistics.median(ratios):.1f} "
            f"({ratios[0]:.1f} to {ratios[-1]:.1f}, {len(ratios)} pairs) |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series")
    parser.add_argument("--horizons", type=int, nargs="+", default=[48, 96])
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    series = load_series(SeriesSource(given.series))
    print("| horizon | training | straightforward, an epoch | ours | ratio |\n|---|---|---|---|---|")
    for horizon in given.horizons:
        starts = torch.from_numpy(series.starts("train", 2 * horizon, horizon))
        measure(Windows(torch.from_numpy(series.values), starts, 2 * horizon, horizon), given)


if __name__ == "__main__":
    main()
