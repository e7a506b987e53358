"""Print what recovery reaches and costs as Markdown: docs/results/recovery.md is made of it.

One row for each variant of each run: tokens trained on, seconds, raw retention of each task and its mean with 95 %
intervals, and the tokens and seconds for each point of mean retention that training adds to the pruned model. Below,
each variant's mean retention minus the first one's, by a bootstrap that is paired where the items are the same.

usage: python benchmarks/recovery.py RUN ... [--tasks NAME ...] [--draws N]

RUN is the folder of a finished mitigation run with --drop. All runs have to share the model and the items of the tasks.
"""

import argparse
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import stratoscope
from stratoscope.mitigation import BASE
from stratoscope.statistics import bootstrap_weights
from stratoscope.tables.mitigation import NOT_RECOVERED, VariantItemRow, VariantRow

Draws = NDArray[np.float64]
"""The value on all items, then that of each draw."""


@dataclass(frozen=True)
class TaskItems:
    """The scores of one model on the items of one task; of several seeds, their mean."""

    ids: tuple[str, ...]
    value: NDArray[np.float64]
    weight: NDArray[np.float64]

    def draws(self, number: int, seed: int) -> Draws:
        """Return the metric on all items and on resamples of them, the same ones for models with as many items."""
        weights = np.vstack([np.ones(len(self.ids)), bootstrap_weights(len(self.ids), number, seed)])
        return (weights @ self.value) / (weights @ self.weight)


Items = Mapping[str, TaskItems]
"""By task."""


@dataclass(frozen=True)
class Recovered:
    """A trained variant of a run, with the models that it is compared with."""

    name: str
    rows: list[VariantRow]
    base: Items
    dropped: Items
    trained: Items

    @property
    def tokens(self) -> float:
        return float(np.mean([row.tokens or 0 for row in self.rows]))

    @property
    def step_seconds(self) -> float:
        return float(np.mean([row.step_seconds or 0.0 for row in self.rows]))

    def retention(self, items: Items, task: str, number: int) -> Draws:
        seed = zlib.crc32(task.encode())  # tasks are resampled independently
        return items[task].draws(number, seed) / self.base[task].draws(number, seed)

    def mean_retention(self, items: Items, tasks: Sequence[str], number: int) -> Draws:
        return np.mean([self.retention(items, task, number) for task in tasks], axis=0)


def model_items(rows: Sequence[VariantItemRow], name: str) -> Items:
    """Return the items of a model by task, the mean over its seeds."""
    by_task: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if row.variant == name:
            by_task.setdefault(row.dataset, {}).setdefault(row.item_id, []).append((row.value, row.weight))
    items = {}
    for task, own in sorted(by_task.items()):
        ids = tuple(sorted(own))
        value, weight = np.array([np.mean(own[i], axis=0) for i in ids]).T
        items[task] = TaskItems(ids, value, weight)
    return items


def read(folder: str) -> list[Recovered]:
    """Return the variants of a run."""
    run = stratoscope.open_run(folder)
    items = VariantItemRow.read(run.table("items"))
    rows = VariantRow.read(run.table("variants"))
    base = model_items(items, BASE)
    names = dict.fromkeys(row.variant for row in rows)
    return [
        Recovered(
            Path(folder).name + (f", {name}" if len(names) > 1 else ""),
            [row for row in rows if row.variant == name],
            base,
            model_items(items, f"{name}{NOT_RECOVERED}"),
            model_items(items, name),
        )
        for name in names
    ]


def with_interval(draws: Draws) -> str:
    """Return a share with its interval."""
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return f"{100 * draws[0]:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def cost(amount: float, points: float, form: str) -> str:
    """Return an amount for each point of retention; in words where nothing was gained."""
    return f"{amount / points:{form}}" if points > 0 else "no gain"


def table(variants: Sequence[Recovered], tasks: Sequence[str], number: int) -> None:
    header = ("variant", "tokens", "seconds of steps", *tasks, "mean", "tokens a point", "seconds a point")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    first = variants[0]
    known: set[tuple[int, ...]] = set()
    for variant in variants:
        dropped = tuple(variant.rows[0].dropped_layers)
        if dropped not in known:
            known.add(dropped)
            cells = [with_interval(variant.retention(variant.dropped, task, number)) for task in tasks]
            mean = with_interval(variant.mean_retention(variant.dropped, tasks, number))
            name = f"dropped, not trained: {' '.join(map(str, dropped))}"
            print("| " + " | ".join([name, "0", "0", *cells, mean, "", ""]) + " |")
    for variant in variants:
        mean = variant.mean_retention(variant.trained, tasks, number)
        points = 100 * float(mean[0] - variant.mean_retention(variant.dropped, tasks, number)[0])
        cells = [
            variant.name,
            f"{variant.tokens:,.0f}",
            f"{variant.step_seconds:,.0f}",
            *(with_interval(variant.retention(variant.trained, task, number)) for task in tasks),
            with_interval(mean),
            cost(variant.tokens, points, ",.0f"),
            cost(variant.step_seconds, points, ".2f"),
        ]
        print("| " + " | ".join(cells) + " |")
    print(f"\nMean retention minus that of {first.name}:\n")
    for variant in variants[1:]:
        same = all(variant.base[task].ids == first.base[task].ids for task in tasks)
        gain = variant.mean_retention(variant.trained, tasks, number) - first.mean_retention(
            first.trained, tasks, number
        )
        low, high = 100 * np.quantile(gain[1:], [0.025, 0.975])
        note = "" if same else " (the items differ, so the interval is not paired)"
        print(f"- {variant.name}: {100 * gain[0]:+.1f} points ({low:+.1f} to {high:+.1f}){note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--draws", type=int, default=10_000)
    given = parser.parse_args()
    variants = [variant for run in given.runs for variant in read(run)]
    tasks = given.tasks or [task for task in variants[0].base if all(task in v.base for v in variants)]
    table(variants, tasks, given.draws)


if __name__ == "__main__":
    main()
