"""Measure whether seeds of a small forecaster are fitted faster together, by torch.func, than one after another.

Together, the weights of all seeds are stacked, one vectorised gradient serves all of them, and one step of fused Adam
moves them. One after another is what the job's cells do, each with a thread of its own. Steps are paired, a step of all
seeds each, on one thread, and the median of their ratios is told, with how far the two have come apart.

usage: python benchmarks/seeds.py SERIES [--forecasters NAME ...] [--seeds N] [--horizon N] [--steps N]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from stratoscope.data import SeriesSource, load_series
from stratoscope.forecasting import FORECASTERS, Shape, TimeSieveSettings, Windows, error_of

BATCH, RATE, WARM_UP = 32, 1e-4, 3
Tensor = torch.Tensor


def apart(models: list[nn.Module]) -> Callable[[list[tuple[Tensor, Tensor]]], None]:
    optimisers = [torch.optim.Adam(model.parameters(), lr=RATE, fused=True) for model in models]

    def step(batches: list[tuple[Tensor, Tensor]]) -> None:
        for model, optimiser, (windows, target) in zip(models, optimisers, batches, strict=True):
            loss = error_of(model(windows).values, target, "mae").mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()

    return step


def together(models: list[nn.Module]) -> tuple[dict[str, Tensor], Callable[[list[tuple[Tensor, Tensor]]], None]]:
    stacked, buffers = stack_module_state(models)
    bare = copy.deepcopy(models[0])
    optimiser = torch.optim.Adam(list(stacked.values()), lr=RATE, fused=True)

    def loss(own: dict[str, Tensor], kept: dict[str, Tensor], windows: Tensor, target: Tensor) -> Tensor:
        found = functional_call(bare, (own, kept), (windows,))
        return error_of(found.values, target, "mae").mean()

    gradients = vmap(grad(loss), randomness="different")

    def step(batches: list[tuple[Tensor, Tensor]]) -> None:
        windows, targets = (torch.stack(part) for part in zip(*batches, strict=True))
        for name, gradient in gradients(stacked, buffers, windows, targets).items():
            stacked[name].grad = gradient
        optimiser.step()

    return stacked, step


def taken(step: Callable[[list[tuple[Tensor, Tensor]]], None], batches: list[tuple[Tensor, Tensor]]) -> float:
    begun = time.perf_counter()
    step(batches)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series")
    parser.add_argument("--forecasters", nargs="+", default=["linear", "dlinear", "patchtst", "timesieve"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--horizon", type=int, default=48)
    parser.add_argument("--steps", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(1)
    series = load_series(SeriesSource(given.series))
    lookback = 2 * given.horizon
    starts = torch.from_numpy(series.starts("train", lookback, given.horizon))
    data = Windows(torch.from_numpy(series.values), starts, lookback, given.horizon)
    shape = Shape(lookback, given.horizon, data.values.shape[1])
    print("| forecaster | one after another, a step of a seed | together / one after another | apart after it |")
    print("|---|---|---|---|")
    for name in given.forecasters:
        models = []
        for seed in range(given.seeds):
            torch.manual_seed(seed)
            models.append(FORECASTERS[name].make(shape, TimeSieveSettings()).train())
        stacked, one = together(copy.deepcopy(models))
        other = apart(models)
        ratios, alone = [], []
        for number in range(given.steps + WARM_UP):
            generator = torch.Generator().manual_seed(number)
            batches = [data.batch(torch.randint(len(data), (BATCH,), generator=generator)) for _ in models]
            pair = taken(one, batches), taken(other, batches)
            if number >= WARM_UP:
                ratios.append(pair[0] / pair[1])
                alone.append(pair[1] / len(models))
        weights = dict(models[0].named_parameters())
        off = max(float((stacked[n][0] - weights[n]).detach().abs().max()) for n in weights)
        found = sorted(ratios)
        print(
            f"| {name} | {1000 * statistics.median(alone):.2f} ms | {statistics.median(found):.3f} "
            f"({found[0]:.3f} to {found[-1]:.3f}) | {off:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
