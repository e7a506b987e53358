"""Measure whether training the seeds of a small forecaster together, by torch.func, is faster than one after another.

Together, the weights of all seeds are stacked, and one vectorised gradient and one step of fused Adam serve them all.
One after another is what the job's cells do, each on a thread of its own. Steps of all seeds are paired on one thread,
and the median of their ratios is printed with the largest difference between the resulting weights.

usage: python benchmarks/seeds.py SERIES [--forecasters NAME ...] [--seeds N] [--horizon N] [--steps N] [--device D]
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


def separate_steps(models: list[nn.Module]) -> Callable[[list[tuple[Tensor, Tensor]]], None]:
    optimizers = [torch.optim.Adam(model.parameters(), lr=RATE, fused=True) for model in models]

    def step(batches: list[tuple[Tensor, Tensor]]) -> None:
        for model, optimizer, (windows, target) in zip(models, optimizers, batches, strict=True):
            loss = error_of(model(windows).values, target, "mae").mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()

    return step


def joint_steps(models: list[nn.Module]) -> tuple[dict[str, Tensor], Callable[[list[tuple[Tensor, Tensor]]], None]]:
    stacked, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0])
    optimizer = torch.optim.Adam(list(stacked.values()), lr=RATE, fused=True)

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor], windows: Tensor, target: Tensor) -> Tensor:
        forecast = functional_call(skeleton, (weights, buffers), (windows,))
        return error_of(forecast.values, target, "mae").mean()

    gradients = vmap(grad(loss), randomness="different")

    def step(batches: list[tuple[Tensor, Tensor]]) -> None:
        windows, targets = (torch.stack(part) for part in zip(*batches, strict=True))
        for name, gradient in gradients(stacked, buffers, windows, targets).items():
            stacked[name].grad = gradient
        optimizer.step()

    return stacked, step


def time_step(step: Callable[[list[tuple[Tensor, Tensor]]], None], batches: list[tuple[Tensor, Tensor]]) -> float:
    wait()
    started = time.perf_counter()
    step(batches)
    wait()
    return time.perf_counter() - started


def wait() -> None:
    """Wait until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series")
    parser.add_argument("--forecasters", nargs="+", default=["linear", "dlinear", "patchtst", "timesieve"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--horizon", type=int, default=48)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    series = load_series(SeriesSource(arguments.series))
    lookback = 2 * arguments.horizon
    device = torch.device(arguments.device)
    starts = torch.from_numpy(series.starts("train", lookback, arguments.horizon)).to(device)
    data = Windows(torch.from_numpy(series.values).to(device), starts, lookback, arguments.horizon)
    shape = Shape(lookback, arguments.horizon, data.values.shape[1])
    print("| forecaster | one after another, a step of a seed | together / one after another | weights differ by |")
    print("|---|---|---|---|")
    for name in arguments.forecasters:
        models = []
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            models.append(FORECASTERS[name].make(shape, TimeSieveSettings()).train().to(device))
        stacked, joint = joint_steps(copy.deepcopy(models))
        separate = separate_steps(models)
        ratios, seconds = [], []
        for number in range(arguments.steps + WARM_UP):
            generator = torch.Generator().manual_seed(number)
            places = [torch.randint(len(data), (BATCH,), generator=generator).to(device) for _ in models]
            batches = [data.batch(indices) for indices in places]
            joint_seconds, separate_seconds = time_step(joint, batches), time_step(separate, batches)
            if number >= WARM_UP:
                ratios.append(joint_seconds / separate_seconds)
                seconds.append(separate_seconds / len(models))
        weights = dict(models[0].named_parameters())
        difference = max(float((stacked[n][0] - weights[n]).detach().abs().max()) for n in weights)
        ratios.sort()
        print(
            f"| {name} | {1000 * statistics.median(seconds):.2f} ms | {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f}) | {difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
