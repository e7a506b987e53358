"""Print a pruning search's tables as Markdown: docs/pruning.md is made of them.

usage: python benchmarks/retention.py RUN [--top N]

RUN is the folder of a finished search over a grid. Without --top there is one table a task: raw retention by score and
ratio, with retention above chance in brackets. With it, the N best candidates of each ratio by mean raw retention.
"""

import argparse
from collections import defaultdict
from typing import Any

from stratoscope.pipelines.search.pruning.figures import label, layers, percent
from stratoscope.results import Storage, read_table

Row = dict[str, Any]
Found = dict[tuple[tuple[int, ...], str], Row]


def read(run: str) -> tuple[list[Row], Found]:
    """Return the finished trials, and what each of their sets keeps by task, on the items of the search."""
    storage = Storage(run)
    trials = [row for row in read_table(storage, "trials").to_pylist() if row["status"] == "done"]
    rows = read_table(storage, "comparison").to_pylist()
    return trials, {(tuple(r["dropped_layers"]), r["task"]): r for r in rows if r["part"] == "search"}


def cell(rows: list[Row]) -> str:
    """Return raw retention and that above chance; of several draws, the range of the former."""
    if len(rows) > 1:
        return f"{percent(min(r['raw'] for r in rows))} to {percent(max(r['raw'] for r in rows))}"
    (row,) = rows
    above = percent(row["above_chance"])
    noise = ", within noise" if row["within_noise"] else ""
    return f"{percent(row['raw'])} ({above}{noise})" if above else f"{percent(row['raw'])}{noise}"


def curves(trials: list[Row], found: Found) -> None:
    """Print a table for each task."""
    ratios = sorted({row["ratio"] for row in trials})
    names: dict[str, dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in trials:
        names["random" if row["metric"] == "random" else label(row, with_ratio=False)][row["ratio"]].append(row)
    for task in dict.fromkeys(task for _, task in found):
        first = next(r for (_, of_task), r in found.items() if of_task == task)
        print(
            f"\n**{task}**: {first['items']} items, {first['metric']} {first['before']:.3f} of the whole model, ",
            end="",
        )
        print(f"chance {first['chance']:.3f}\n")
        print("| score | " + " | ".join(f"{ratio:.0%}" for ratio in ratios) + " |")
        print("|---|" + "---|" * len(ratios))
        for name, by_ratio in names.items():
            cells = [[found[tuple(t["dropped_layers"]), task] for t in by_ratio[ratio]] for ratio in ratios]
            print(f"| {name} | " + " | ".join(map(cell, cells)) + " |")


def best(trials: list[Row], found: Found, top: int) -> None:
    """Print the best candidates of each ratio, equal sets of layers in one row."""
    tasks = list(dict.fromkeys(task for _, task in found))
    for ratio in sorted({row["ratio"] for row in trials}):
        by_set: dict[tuple[int, ...], list[Row]] = defaultdict(list)
        for row in trials:
            if row["ratio"] == ratio:
                by_set[tuple(row["dropped_layers"])].append(row)
        ordered = sorted(by_set.values(), key=lambda rows: -rows[0]["retention_raw"])
        print(f"\n{ratio:.0%} dropped: {len(ordered)} different sets in {sum(map(len, ordered))} candidates\n")
        print("| layers dropped | by | mean | interval | " + " | ".join(tasks) + " |")
        print("|---|---|---|---|" + "---|" * len(tasks))
        for rows in ordered[:top]:
            row = rows[0]
            interval = f"{percent(row['retention_raw_low'])} to {percent(row['retention_raw_high'])}"
            by = "; ".join(label(r, with_ratio=False) for r in rows)
            kept = [percent(found[tuple(row["dropped_layers"]), task]["raw"]) for task in tasks]
            print(f"| {layers(row)} | {by} | {percent(row['retention_raw'])} | {interval} | " + " | ".join(kept) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--top", type=int)
    given = parser.parse_args()
    trials, found = read(given.run)
    if given.top:
        best(trials, found, given.top)
    else:
        curves(trials, found)


if __name__ == "__main__":
    main()
