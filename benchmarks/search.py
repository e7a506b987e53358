"""Measure the pruning search: against a naive loop that starts from scratch, and what kept hidden states gain.

The naive loop is a good one: safetensors, all CPU threads, batches of 32 sorted by length, lm-evaluation-harness's own
model class. For each set of layers it loads the model, drops the layers, and evaluates. Figures are medians of paired
ratios on SmolLM2-135M, on SciQ, SST-2 and the beginnings of Wikipedia passages.

usage: python benchmarks/search.py [--items N] [--pairs N] [--steps N] [--trials N] [--devices gpu cpu]
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

import stratoscope
from stratoscope.evaluation import Evaluator, ItemSampling, Slice, choose_items, load_tasks
from stratoscope.execution import cluster
from stratoscope.models import LoadedModel, load_model, without_layers
from stratoscope.pruning.selection import random_sets

TASKS = ("sciq", "sst2", "passages")
ALL = Slice("search", 0.0, 1.0)
BATCH_TOKENS = 2048
COMPARED_CPUS = 2
NUM_LAYERS, DROPPED = 30, 8
METRICS = ["avss", "variance", "sparsity", "random"]


def loaded() -> LoadedModel:
    """Load the model as the naive loop and the evaluator do."""
    return load_model("smollm2", head=True)


def naive_trial(dropped: Sequence[int], samples: dict[str, list[int]]) -> float:
    """Load, prune and evaluate from scratch; return the seconds."""
    started = time.perf_counter()
    with without_layers(loaded(), dropped) as pruned:
        harness = HFLM(pretrained=pruned.network, tokenizer=pruned.tokenizer, batch_size=32, max_length=2048)
        tasks = load_tasks(TASKS)
        simple_evaluate(harness, tasks=tasks, samples=samples, bootstrap_iters=0, log_samples=False)
    return time.perf_counter() - started


def evaluator_of(items: int) -> tuple[Evaluator, dict[str, list[int]]]:
    """Return a ready evaluator, and the places of its items in each task, for the harness."""
    model = loaded()
    tasks = load_tasks(TASKS)
    chosen = [choose_items(task, ItemSampling(items, 1), (), model.tokenizer) for task in tasks]
    samples = {}
    for task in chosen:
        docs = {tuple(map(str, doc.values())): i for i, doc in enumerate(task.task.eval_docs)}
        samples[task.name] = sorted(docs[tuple(map(str, item.doc.values()))] for item in task.search)
    return Evaluator(model, chosen, max_batch_tokens=BATCH_TOKENS, max_length=2048), samples


def show(name: str, ratios: Sequence[float]) -> None:
    """Print a median with its range."""
    low, high = min(ratios), max(ratios)
    print(f"{name}: {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f}, {len(ratios)} pairs)", flush=True)


def seconds(evaluator: Evaluator, dropped: Sequence[int], keep_bytes: int = 0) -> float:
    """Return the seconds of one evaluation."""
    started = time.perf_counter()
    evaluator.evaluate(dropped, ALL, keep_bytes=keep_bytes)
    return time.perf_counter() - started


def against_naive(items: int, pairs: int) -> float:
    """Compare single trials; return the seconds of a naive one."""
    evaluator, samples = evaluator_of(items)
    evaluator.evaluate((), ALL, keep_bytes=10**9)
    ratios, taken = [], []
    for dropped in random_sets(NUM_LAYERS, DROPPED, pairs, 0, ()):
        naive, ours = naive_trial(dropped, samples), seconds(evaluator, dropped)
        taken.append(naive)
        ratios.append(naive / ours)
    show(f"naive trial / evaluation by a running evaluator, {items} items a task", ratios)
    return statistics.median(taken)


def device_rates(items: int, trials: int, devices: Sequence[str]) -> None:
    """Compare searches of random sets on a GPU and on two CPU cores in sets per hour once the search runs.

    Searches of two lengths have the same start, whole model and finalists, so that their difference is the sets' own.
    """
    rates = []
    for device in devices:
        if device == "cpu":
            os.environ["STRATOSCOPE_CPUS"] = str(COMPARED_CPUS)
        with cluster(), finished_score() as scored:  # one Ray and one score run for both searches
            evaluators = {"gpus": float(device == "gpu")}
            short, long = (_search(scored, "random", items, n, evaluators=evaluators) for n in (trials // 4, trials))
        rates.append(3600 * (long.num_sets - short.num_sets) / (long.search_s - short.search_s))
        name = "one GPU" if device == "gpu" else f"{COMPARED_CPUS} CPUs"
        print(
            f"{name}: {rates[-1]:,.0f} sets per hour; {long.num_sets} sets in {long.seconds:.0f} s, with the start of "
            f"{long.load_s:.0f} s, the whole model and the finalists",
            flush=True,
        )
    if len(rates) > 1:
        print(f"ratio {rates[0] / rates[1]:.1f} (at least 10)")


@dataclass(frozen=True)
class Searched:
    """What a search by the job took."""

    load_s: float
    """Seconds of the start of the evaluator."""
    search_s: float
    """Seconds of the search itself, with Ray Tune's start where it is used."""
    num_sets: int
    """Number of different sets of layers."""

    @property
    def seconds(self) -> float:
        return self.load_s + self.search_s


@contextmanager
def finished_score() -> Iterator[dict[str, Any]]:
    """Yield the fields of a search that uses the statistics of a score run, which is removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        common = {"output": folder, "prompts": {"source": "sciq", "limit": 64}}
        run = stratoscope.score(**common, activations={"taps": ["block", "update"]})
        yield common | {"statistics": run.manifest.run_id}


def _search(scored: dict[str, Any], algorithm: str, items: int, trials: int, **more: object) -> Searched:
    """Search by the job, with the statistics of a finished score run."""
    run = stratoscope.search(
        **scored,
        space={"ratios": [DROPPED / NUM_LAYERS], "metrics": METRICS, "draws": 50},
        evaluation={"tasks": list(TASKS), "limit": items, "held_out": 4},
        search={"algorithm": algorithm, "num_samples": trials},
        final={"random_sets": 0, "export": False},
        **more,
    )
    sets = {tuple(row["dropped_layers"]) for row in run.table("trials").to_pylist()}
    return Searched(run.manifest.timings["load"], run.manifest.timings["search"], len(sets))


def job_rate(items: int, trials: int, naive_s: float) -> None:
    """Compare whole searches in trials per hour with a naive loop."""
    with finished_score() as scored:
        for algorithm in ("tpe", "nsga2"):
            done = _search(scored, algorithm, items, trials)
            print(
                f"{algorithm}: {3600 * trials / done.seconds:,.0f} trials per hour, {done.num_sets} different sets in "
                f"{trials}; naive loop {3600 / naive_s:,.0f}; ratio {trials / done.seconds * naive_s:.2f}",
                flush=True,
            )


def prefix_gain(items: int, steps: int) -> None:
    """Compare steps of greedy search with kept hidden states and without."""
    evaluator, _ = evaluator_of(items)
    plain, _ = evaluator_of(items)
    plain.evaluate((), ALL)
    current: tuple[int, ...] = ()
    ratios = []
    for dropped in random_sets(NUM_LAYERS, steps, 1, 0, ())[0]:
        tries = [tuple(sorted((*current, layer))) for layer in range(NUM_LAYERS) if layer not in current]
        with_states = seconds(evaluator, current, keep_bytes=4 * 10**9) + sum(seconds(evaluator, t) for t in tries)
        without = sum(seconds(plain, t) for t in tries)
        ratios.append(without / with_states)
        current = tuple(sorted((*current, dropped)))
    show(f"greedy step without kept hidden states / with them, {items} items a task", ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    devices = ("gpu", "cpu")
    parser.add_argument("--devices", nargs="+", choices=devices, help="compare searches on a GPU and on two CPU cores")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    if arguments.devices:
        device_rates(arguments.items, arguments.trials, arguments.devices)
        return
    naive_s = against_naive(arguments.items, arguments.pairs)
    prefix_gain(max(8, arguments.items // 4), arguments.steps)
    job_rate(arguments.items, arguments.trials, naive_s)


if __name__ == "__main__":
    main()
