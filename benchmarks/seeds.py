"""Measure how the seeds of a small forecaster are trained fastest: one after another, by torch.func, or by processes.

By torch.func the weights of all seeds are stacked, and one vectorised gradient and one step of fused Adam serve them
all. Steps of all seeds are paired on one thread, and the median of their ratios is printed with the largest difference
between the resulting weights. In processes of their own the seeds share a device, as the job's cells share a GPU by
fractions of it; each process has one thread.

usage: python benchmarks/seeds.py SERIES [--forecasters NAME ...] [--seeds N] [--horizon N] [--steps N] [--device D]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from stratoscope.data import SeriesSource, load_series
from stratoscope.forecasting import FORECASTERS, Shape, TimeSieveSettings, Windows, error_of

BATCH, RATE, WARM_UP = 32, 1e-4, 3
PROCESS_STEPS = 10
"""Steps of a process for each step of `--steps`, so that processes train side by side for long enough."""
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


@dataclass(frozen=True)
class Work:
    """What each process trains."""

    forecaster: str
    shape: Shape
    data: Windows
    """Windows on the host, which each process copies to its device."""
    device: torch.device
    steps: int


def train_alone(work: Work, seed: int, ready: Any, results: Any) -> None:
    """Train one seed in a process of its own, once all are ready, and report the seconds of a step."""
    torch.set_num_threads(1)
    step = separate_steps([make_model(work.forecaster, seed, work.shape, work.device)])
    values, starts = (tensor.to(work.device) for tensor in (work.data.values, work.data.starts))
    data = Windows(values, starts, work.data.lookback, work.data.horizon)
    for number in range(work.steps + WARM_UP):
        if number == WARM_UP:
            wait()
            ready.wait()
            started = time.perf_counter()
        generator = torch.Generator().manual_seed(number)
        step([data.batch(torch.randint(len(data), (BATCH,), generator=generator).to(work.device))])
    wait()
    results.put((time.perf_counter() - started) / work.steps)


def seconds_by_processes(work: Work, seeds: int) -> float:
    """Return the seconds per step and seed with a process for each seed: the slowest time divided by the seeds."""
    context = torch.multiprocessing.get_context("spawn")
    ready, results = context.Barrier(seeds), context.SimpleQueue()
    processes = [context.Process(target=train_alone, args=(work, seed, ready, results)) for seed in range(seeds)]
    for process in processes:
        process.start()
    slowest = max(results.get() for _ in processes)
    for process in processes:
        process.join()
    return slowest / seeds


def make_model(name: str, seed: int, shape: Shape, device: torch.device) -> nn.Module:
    torch.manual_seed(seed)
    return FORECASTERS[name].make(shape, TimeSieveSettings()).train().to(device)


def time_step(step: Callable[[list[tuple[Tensor, Tensor]]], None], batches: list[tuple[Tensor, Tensor]]) -> float:
    wait()
    started = time.perf_counter()
    step(batches)
    wait()
    return time.perf_counter() - started


def wait() -> None:
    """Wait until a GPU has finished its work."""
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
    starts = torch.from_numpy(series.starts("train", lookback, arguments.horizon))
    on_host = Windows(torch.from_numpy(series.values), starts, lookback, arguments.horizon)
    data = Windows(on_host.values.to(device), starts.to(device), lookback, arguments.horizon)
    shape = Shape(lookback, arguments.horizon, data.values.shape[1])
    print("| forecaster | one after another, a step of a seed | by torch.func | weights differ by | by processes |")
    print("|---|---|---|---|---|")
    for name in arguments.forecasters:
        models = [make_model(name, seed, shape, device) for seed in range(arguments.seeds)]
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
        alone = statistics.median(seconds)
        work = Work(name, shape, on_host, device, PROCESS_STEPS * arguments.steps)
        shared = seconds_by_processes(work, arguments.seeds)
        print(
            f"| {name} | {1000 * alone:.2f} ms | {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}) "
            f"| {difference:.1e} | {shared / alone:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
