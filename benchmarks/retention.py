"""Print a pruning search's tables as Markdown: docs/results/pruning.md is made of them.

usage: python benchmarks/retention.py RUN [--top N]

RUN is the folder of a finished search over a grid. Without --top there is one table a task: raw retention by score and
ratio, with retention above chance in brackets. With it, the N best candidates of each ratio by mean raw retention.
"""

import argparse
from collections import defaultdict

from stratoscope.pipelines.search.pruning.figures import layer_list, score_label
from stratoscope.results import Storage, read_table
from stratoscope.tables.pruning import ComparisonRow, PruningTrialRow

Comparisons = dict[tuple[tuple[int, ...], str], ComparisonRow]
"""By dropped layers and task."""


def percent(value: float | None) -> str:
    """Return a share as text; nothing where there is none."""
    return "" if value is None else f"{value:.1%}"


def read(run: str) -> tuple[list[PruningTrialRow], Comparisons]:
    """Return the finished trials, and the comparisons of their sets with the whole model on the search's items."""
    storage = Storage(run)
    trials = [row for row in PruningTrialRow.read(read_table(storage, "trials")) if row.status == "done"]
    rows = ComparisonRow.read(read_table(storage, "comparison"))
    return trials, {(tuple(r.dropped_layers), r.task): r for r in rows if r.part == "search"}


def cell(rows: list[ComparisonRow]) -> str:
    """Return raw retention and that above chance; of several draws, the range of the former."""
    if len(rows) > 1:
        raw = [row.raw or 0.0 for row in rows]
        return f"{percent(min(raw))} to {percent(max(raw))}"
    (row,) = rows
    above = percent(row.above_chance)
    noise = ", within noise" if row.within_noise else ""
    return f"{percent(row.raw)} ({above}{noise})" if above else f"{percent(row.raw)}{noise}"


def curves(trials: list[PruningTrialRow], comparisons: Comparisons) -> None:
    """Print a table for each task."""
    ratios = sorted({row.ratio for row in trials})
    names: dict[str, dict[float, list[PruningTrialRow]]] = defaultdict(lambda: defaultdict(list))
    for row in trials:
        names["random" if row.metric == "random" else score_label(row, with_ratio=False)][row.ratio].append(row)
    for task in dict.fromkeys(task for _, task in comparisons):
        first = next(r for (_, name), r in comparisons.items() if name == task)
        print(f"\n**{task}**: {first.items} items, {first.metric} {first.before:.3f} of the whole model, ", end="")
        print(f"chance {first.chance:.3f}\n")
        print("| score | " + " | ".join(f"{ratio:.0%}" for ratio in ratios) + " |")
        print("|---|" + "---|" * len(ratios))
        for name, by_ratio in names.items():
            cells = [[comparisons[tuple(t.dropped_layers), task] for t in by_ratio[ratio]] for ratio in ratios]
            print(f"| {name} | " + " | ".join(map(cell, cells)) + " |")


def best(trials: list[PruningTrialRow], comparisons: Comparisons, top: int) -> None:
    """Print the best candidates of each ratio, equal sets of layers in one row."""
    tasks = list(dict.fromkeys(task for _, task in comparisons))
    for ratio in sorted({row.ratio for row in trials}):
        by_set: dict[tuple[int, ...], list[PruningTrialRow]] = defaultdict(list)
        for row in trials:
            if row.ratio == ratio:
                by_set[tuple(row.dropped_layers)].append(row)
        ordered = sorted(by_set.values(), key=lambda rows: -(rows[0].retention_raw or 0.0))
        print(f"\n{ratio:.0%} dropped: {len(ordered)} different sets in {sum(map(len, ordered))} candidates\n")
        print("| layers dropped | by | mean | interval | " + " | ".join(tasks) + " |")
        print("|---|---|---|---|" + "---|" * len(tasks))
        for rows in ordered[:top]:
            row = rows[0]
            interval = f"{percent(row.retention_raw_low)} to {percent(row.retention_raw_high)}"
            labels = "; ".join(score_label(r, with_ratio=False) for r in rows)
            retained = [percent(comparisons[tuple(row.dropped_layers), task].raw) for task in tasks]
            print(
                f"| {layer_list(row)} | {labels} | {percent(row.retention_raw)} | {interval} | "
                + " | ".join(retained)
                + " |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--top", type=int)
    given = parser.parse_args()
    trials, comparisons = read(given.run)
    if given.top:
        best(trials, comparisons, given.top)
    else:
        curves(trials, comparisons)


if __name__ == "__main__":
    main()
