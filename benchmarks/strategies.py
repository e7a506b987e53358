"""Compare strategies of a pruning search with equal budgets: docs/results/pruning_search.md is made of its output.

All strategies run in this process, on the evaluator and the store of the search job, without Ray. Every evaluation is
stored in OUT, so that an interrupted comparison resumes where it stopped.

usage: python benchmarks/strategies.py search --statistics RUN --out OUT [--sizes 8] [--budget 80] [--strategies ...]
       python benchmarks/strategies.py judge --statistics RUN --out OUT --sets "1 2 3" "4 5 6" [--tasks ...]
       python benchmarks/strategies.py differ --statistics RUN --out OUT --sets "1 2 3" "4 5 6" [--tasks ...]

`search` writes OUT/curve.csv, a row per evaluation, and OUT/finalists.csv, the best sets of each strategy on all items
of the search. `judge` compares sets with the whole model on 500 items of each task that no search has seen, in
float32 or --judge_dtype, and writes OUT/judged.csv. `differ` prints the raw retention of the first judged set minus
that of each other one, with paired intervals.
"""

import argparse
import csv
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stratoscope.evaluation import (
    Estimate,
    ItemSampling,
    Resampling,
    Slice,
    by_task,
    mean_retention,
    retained,
)
from stratoscope.evaluation.comparison import check_paired, ratio, resample
from stratoscope.models import LoadSpec, resolve_source
from stratoscope.pipelines.runtime.run_lookup import open_finished
from stratoscope.pipelines.search.pruning.statistics import FinishedScore, all_scores
from stratoscope.pipelines.search.pruning.worker import PruningEvaluator, PruningEvaluatorSettings
from stratoscope.pruning import (
    STRATEGY_NAMES,
    LayerSet,
    ObjectiveFunction,
    PruningSpace,
    StrategySettings,
    best_sets,
    best_so_far,
    make_strategy,
    run_strategy,
)

TASKS = ("sciq", "sst2", "passages")
UNSEEN_TASKS = ("arc_easy", "lambada")
FINALISTS = 4
"""Best sets of a strategy that are evaluated on all items of the search."""
SPACE: dict[str, Any] = {"metrics": ("avss", "variance", "block_influence"), "taps": ("update",), "epsilons": (0.01,)}
"""Scores whose lowest layers are the starting sets."""


def evaluator_of(given: argparse.Namespace, statistics: FinishedScore, dtype: str, tasks: Sequence[str]) -> Any:
    """Return the search job's evaluator on this process's model."""
    sampling = ItemSampling(given.items, given.held_out, given.seed)
    folder = given.out / dtype / "-".join(tasks)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").touch()  # marks the folder as one that the process can reach
    settings = PruningEvaluatorSettings(
        loading=LoadSpec(resolve_source(statistics.model), "cpu", dtype, None, False, False),
        tasks=tuple(tasks),
        sampling=sampling,
        calibrated=statistics.calibrated,
        max_length=2048,
        batch_tokens=2048,
        rungs=(given.first / given.items, 1.0),
        resampling=Resampling(1000, 0.95, given.seed),
        cache_bytes=10**9,
        num_threads=given.threads,
        run=str(folder),
    )
    return PruningEvaluator(settings)


class Sets:
    """Evaluates sets of layers on the first items of the search, or on all of them."""

    def __init__(self, evaluator: PruningEvaluator, objective: ObjectiveFunction) -> None:
        self.evaluator, self.objective = evaluator, objective
        self.first = evaluator.settings.slices("search")[0]
        self.remembered: LayerSet = ()

    def __call__(self, origin: LayerSet, sets: Sequence[LayerSet]) -> list[float]:
        missing = any(self.evaluator.store.read(dropped, self.first) is None for dropped in sets)
        if missing and origin != self.remembered:
            self.evaluator.remember(origin, 1)
            self.remembered = origin
        return [self.value(dropped, 1) for dropped in sets]

    def value(self, dropped: LayerSet, num_slices: int | None) -> float:
        return self.objective(self.evaluator.evaluate(dropped, "search", num_slices), 0.0)


def starting_sets(statistics: FinishedScore, num_layers: int) -> Callable[[int], list[LayerSet]]:
    """Return a function from a size to the sets of that many layers with the lowest scores."""

    def starts(size: int) -> list[LayerSet]:
        space = PruningSpace(ratios=(size / num_layers,), **SPACE)
        scores = all_scores(statistics, space, 0)
        return list(dict.fromkeys(c.dropped(scores, num_layers) for c in space.starting_points()))

    return starts


def append(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Add rows to a CSV file."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def text(dropped: LayerSet) -> str:
    return " ".join(map(str, dropped))


def search(given: argparse.Namespace, statistics: FinishedScore) -> None:
    """Run the strategies one after the other."""
    evaluator = evaluator_of(given, statistics, given.dtype, TASKS)
    sets = Sets(evaluator, ObjectiveFunction(given.objective))
    num_layers = len(evaluator.model.anatomy)
    starts = starting_sets(statistics, num_layers)
    for name in ("curve.csv", "finalists.csv"):
        (given.out / name).unlink(missing_ok=True)
    for size in given.sizes:
        for dropped in starts(size):
            print(f"{size} start: {text(dropped)} {sets.value(dropped, 1):.4f}", flush=True)
        settings = StrategySettings(tuple(range(num_layers)), num_layers, size, given.budget, given.seed, starts)
        for name in given.strategies:
            history = run_strategy(make_strategy(name, settings), sets, budget=given.budget, num_layers=num_layers)
            curve = best_so_far(history, size)
            key = {"size": size, "strategy": name}
            rows = [
                {**key, "evaluation": i, "dropped": text(e.dropped), "value": e.value, "best": best}
                for i, (e, best) in enumerate(zip(history, curve, strict=True), 1)
            ]
            append(given.out / "curve.csv", rows)
            finalists = []
            for found in best_sets(history, size, FINALISTS):
                final = evaluator.evaluate(found.dropped, "search")
                values = {"first": found.value, "all": sets.objective(final, 0.0), "retention_raw": final.raw.value}
                finalists.append(
                    {**key, "dropped": text(found.dropped), **values, "bits_per_byte": final.bits_per_byte}
                )
            append(given.out / "finalists.csv", finalists)
            best = max(finalists, key=lambda row: row["all"])
            print(f"{size} {name}: {len(history)} evaluations, {curve[-1]:.4f}; {best}", flush=True)


def judge(given: argparse.Namespace, statistics: FinishedScore) -> None:
    """Compare sets with the whole model on items that no search has seen."""
    for tasks in given.tasks or [",".join(TASKS), *UNSEEN_TASKS]:
        evaluator = evaluator_of(given, statistics, given.judge_dtype, tasks.split(","))
        for dropped in [tuple(map(int, layers.split())) for layers in given.sets]:
            rows = list(judged(evaluator, dropped, given))
            append(given.out / "judged.csv", rows)
            for row in rows:
                print(row, flush=True)


def judged(evaluator: PruningEvaluator, dropped: LayerSet, given: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield the retention of a set by task, and the mean over tasks."""
    part = Slice("held_out", 0.0, 1.0)
    evaluator.evaluate(dropped, "held_out")
    metrics = {task.name: task.metric for task in evaluator.evaluator.tasks}
    before, after = (by_task(evaluator.store.read(s, part) or [], metrics) for s in ((), dropped))
    chance, resampling = evaluator.chance("held_out"), Resampling(10_000, 0.95, given.seed)
    for task, base in before.items():
        r = retained(base, after[task], chance[task], resampling)
        yield {
            **{"dropped": text(dropped), "task": task, "items": len(base.item_ids), "chance": chance[task]},
            **{"before": r.before.value, "after": r.after.value},
            **{"raw": r.raw.value, "raw_low": r.raw.low, "raw_high": r.raw.high},
            **{"above_chance": r.above_chance.value},
            **{"bits_before": base.bits_per_byte, "bits_after": after[task].bits_per_byte},
        }
    if len(before) == 1:
        return
    raw, above = mean_retention(before, after, chance, resampling)
    yield {
        **{"dropped": text(dropped), "task": "mean of " + " ".join(before), "items": None, "chance": None},
        **{"before": None, "after": None, "raw": raw.value, "raw_low": raw.low, "raw_high": raw.high},
        **{"above_chance": above.value, "bits_before": None, "bits_after": None},
    }


def differ(given: argparse.Namespace, statistics: FinishedScore) -> None:
    """Print how much more the first set keeps than each other one, of sets that were judged."""
    first, *others = [tuple(map(int, layers.split())) for layers in given.sets]
    for tasks in given.tasks or [",".join(TASKS), *UNSEEN_TASKS]:
        evaluator = evaluator_of(given, statistics, given.judge_dtype, tasks.split(","))
        one = retention_draws(evaluator, first, given.seed)
        for other in others:
            two = retention_draws(evaluator, other, given.seed)
            for task, draws in one.items():
                difference = Estimate.of_draws(100 * (draws - two[task]), 0.95)
                print(f"{text(first)} - {text(other)}, {task}: {difference.text('+.1f')} points", flush=True)


def retention_draws(evaluator: PruningEvaluator, dropped: LayerSet, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return the raw retention of a judged set as measured, then of each bootstrap draw, by task and on average."""
    part = Slice("held_out", 0.0, 1.0)
    metrics = {task.name: task.metric for task in evaluator.evaluator.tasks}
    scores = [evaluator.store.read(layers, part) for layers in ((), dropped)]
    if None in scores:
        raise SystemExit(f"{text(dropped)} was not judged in {evaluator.settings.run}; run judge first")
    before, after = (by_task(found or [], metrics) for found in scores)
    resampling = Resampling(10_000, 0.95, seed)
    found = {}
    for task, base in before.items():
        check_paired(base, after[task])
        end, start = (resample(items, resampling.stream(task)) for items in (after[task], base))
        found[task] = ratio(end, start)
    mean = {"mean of " + " ".join(found): np.mean(list(found.values()), axis=0)} if len(found) > 1 else {}
    return found | mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["search", "judge", "differ"])
    parser.add_argument("--statistics", required=True, help="finished score run, a folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8], help="numbers of dropped layers")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGY_NAMES, default=list(STRATEGY_NAMES))
    parser.add_argument("--budget", type=int, default=80, help="evaluations of each strategy")
    parser.add_argument("--items", type=int, default=48, help="items of each task for the search")
    parser.add_argument("--first", type=int, default=16, help="items of each task for each evaluation")
    parser.add_argument("--held_out", type=int, default=500)
    parser.add_argument("--objective", default="likelihood")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--judge_dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sets", nargs="+", default=[], help="sets to judge or compare, each as one argument")
    parser.add_argument("--tasks", nargs="+", help="tasks to judge on, those with commas together")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    statistics = FinishedScore(*open_finished(given.statistics, "runs", "score"))
    {"search": search, "judge": judge, "differ": differ}[given.command](given, statistics)


if __name__ == "__main__":
    main()
