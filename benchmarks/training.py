"""Measure the mitigation job's training: tokens/s and memory by stage of ZeRO, and some layers against all of them.

Two workers of one thread each train SmolLM2-135M on SciQ questions, through the job. The first steps warm up and are
left out. Steps of two trainings that take the same examples are paired, and the median of their ratios is told.

usage: python benchmarks/training.py [--steps N] [--layers N,N,...] [--stages N ...] [--dtype NAME]
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

import stratoscope
from stratoscope.mitigation import QuestionExample, answer_rows
from stratoscope.models import LoadedModel, encode_pair, load_model

WARM_UP = 3
Row = dict[str, Any]


def train(layers: str, stage: int, given: argparse.Namespace) -> stratoscope.MitigationRun:
    """Train by the job and return the run."""
    return stratoscope.mitigate(
        model={"source": "smollm2", "dtype": given.dtype},
        layers=layers,
        compare=["flagged"],
        pairs={"limit": 100},
        train={
            "max_steps": given.steps,
            "questions": 8,
            "texts": 8,
            "zero": stage,
            "num_workers": 2,
            "checkpoint_every": given.steps,
        },
        evaluation={"limit": 4},
        keep={"models": "none"},
    )


def seconds(run: stratoscope.MitigationRun) -> list[float]:
    """Return what each step took, without those that warm up."""
    return [row["tokens"] / row["tokens_per_s"] for row in run.table("training").to_pylist()[WARM_UP:]]


def told(name: str, run: stratoscope.MitigationRun) -> list[float]:
    """Print a training's rate and memory, and return its steps' seconds."""
    steps = run.table("training").to_pylist()[WARM_UP:]
    (variant,) = run.table("variants").to_pylist()
    rate = statistics.median(row["tokens_per_s"] for row in steps)
    taken = seconds(run)
    print(
        f"| {name} | {variant['trained_parameters'] / 1e6:.1f} M | {rate:,.0f} | {statistics.median(taken):.2f} s | "
        f"{variant['peak_memory_bytes'] / 1e9:.2f} GB |",
        flush=True,
    )
    return taken


def ratios(ones: Sequence[float], others: Sequence[float]) -> str:
    """Return the median of paired ratios, and their range."""
    found = sorted(one / other for one, other in zip(ones, others, strict=True))
    return f"{statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f}, {len(found)} pairs of steps)"


def prefix_share(lowest: int, given: argparse.Namespace) -> float:
    """Return the time of a forward pass through the layers below a number over that through all, without the head."""
    torch.set_num_threads(2)
    model = load_model("smollm2", dtype=given.dtype, head=True)
    context, answer = encode_pair(model.tokenizer, "What is it that plants make out of light and air?", " sugar")
    example = QuestionExample(tuple(context), tuple(answer), (tuple(answer), tuple(answer)))
    rows = answer_rows([example] * 16, 0)
    found = []
    for _ in range(7):
        whole = _pass_seconds(model, rows.ids, None)
        found.append(_pass_seconds(model, rows.ids, lowest) / whole)
    return statistics.median(found)


class _Reached(Exception):  # noqa: N818 - ends a pass early and is no error
    pass


def _pass_seconds(model: LoadedModel, ids: torch.Tensor, until: int | None) -> float:
    def stop(*_: object) -> None:
        raise _Reached

    handle = None if until is None else model.anatomy.blocks[until].module.register_forward_pre_hook(stop)
    started = time.perf_counter()
    try:
        with torch.no_grad():
            model.backbone(ids, use_cache=False)
    except _Reached:
        pass
    finally:
        if handle is not None:
            handle.remove()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--layers", default="15,18,20,22,25,28")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()
    lowest = min(map(int, given.layers.split(",")))
    print("| trained | parameters | tokens/s | step | peak memory of a worker |\n|---|---|---|---|---|")
    some = [told(f"layers {given.layers}, ZeRO {s}", train(given.layers, s, given)) for s in given.stages]
    every = told("all layers, ZeRO 1", train("all", 1, given))
    print(f"\nstep of some layers / of all: {ratios(some[0], every)}")
    print(f"layers below {lowest} / all layers, forward: {prefix_share(lowest, given):.3f}")


if __name__ == "__main__":
    main()
