"""What a faithfulness run's page and terminal table show."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.table import Table as TerminalTable

from stratoscope.pipelines.faithfulness import figures
from stratoscope.pipelines.faithfulness.cells import NONE
from stratoscope.pipelines.reporting.formatting import interval_text, number_text, run_facts
from stratoscope.results import Manifest, Page, PageSection, Storage, Table, read_table

Row = dict[str, Any]
_WORST_OF = ("dataset", "forecaster", "training", "horizon", "condition", "norm", "goal", "radius")


def summary_table(storage: Storage) -> TerminalTable:
    """Return each forecaster's errors, its spread over seeds, and what costs it most."""
    cells = [r for r in read_table(storage, "cells").to_pylist() if r["status"] == "done"]
    table = TerminalTable(title="Errors in standard units, means over seeds", title_justify="left")
    left = ("data set", "forecaster", "training", "costliest")
    for name in ("data set", "forecaster", "training", "H", "mae", "mse", "sd", "costliest"):
        table.add_column(name, justify="left" if name in left else "right")
    for row in read_table(storage, "spreads").to_pylist():
        if row["metric"] != "mse":
            continue
        fields = ("dataset", "forecaster", "training", "horizon")
        key = tuple(row[field] for field in fields)
        own = [r for r in cells if tuple(r[field] for field in fields) == key]
        clean = _mean(own, NONE, 0.0)
        table.add_row(
            *map(str, key),
            f"{clean:.4f}",
            f"{row['mean']:.4f}",
            number_text(row["deviation"], ".4f"),
            _costliest(own, clean),
        )
    return table


def _costliest(rows: Sequence[Row], clean: float) -> str:
    met = dict.fromkeys((r["perturbation"], r["level"]) for r in rows if r["perturbation"] != NONE)
    if not met:
        return ""
    name, level = max(met, key=lambda each: _mean(rows, *each))
    return f"{name} {level:g}: {_mean(rows, name, level) / clean - 1:+.1%}" if clean else f"{name} {level:g}"


def _mean(rows: Sequence[Row], perturbation: str, level: float) -> float:
    """Return the absolute error under a perturbation, averaged over seeds."""
    return float(np.mean([r["mae"] for r in rows if (r["perturbation"], r["level"]) == (perturbation, level)]))


def build_page(storage: Storage, manifest: Manifest) -> Page:
    """Compose the report of a run from its tables."""
    every = read_table(storage, "cells").to_pylist()
    cells = [row for row in every if row["status"] == "done"]
    failed = [row for row in every if row["status"] == "failed"]
    forecasts = read_table(storage, "forecasts").to_pylist()
    sections = [PageSection("Verdict", list(manifest.facts["verdicts"]))]
    for dataset, horizon in dict.fromkeys((r["dataset"], r["horizon"]) for r in cells):
        own = [r for r in cells if (r["dataset"], r["horizon"]) == (dataset, horizon)]
        drawn = [r for r in forecasts if (r["dataset"], r["horizon"]) == (dataset, horizon)]
        sections += _sections_of(f"{dataset}, horizon {horizon}", own, drawn)
    sections.append(_spread_section(read_table(storage, "spreads").to_pylist()))
    differences = read_table(storage, "differences").to_pylist()
    if differences:
        sections.append(_difference_section(differences))
    sections.append(_worst_section(read_table(storage, "worst_case").to_pylist()))
    if failed:
        rows = [
            [*(str(r[f]) for f in ("dataset", "forecaster", "training", "seed", "horizon")), r["error"]] for r in failed
        ]
        header = ["data set", "forecaster", "training", "seed", "horizon", "error"]
        sections.append(PageSection("What failed", [], [], [Table(header, rows)]))
    return Page(
        title="Do forecasts survive another seed and a little noise?",
        summary=(
            f"{manifest.counts['cells']} fitted forecasters, each judged on all test windows, in standard units of the "
            "training part. Faithful training goes on from the plain forecaster of the same seed."
        ),
        sections=sections,
        facts=list(_facts(manifest)),
    )


def _sections_of(name: str, cells: Sequence[Row], forecasts: Sequence[Row]) -> Iterator[PageSection]:
    shown = [
        figures.forecasts(forecasts, forecaster, forecasts[0]["channel"])
        for forecaster in dict.fromkeys(r["forecaster"] for r in forecasts)
    ]
    titles = ", then ".join(dict.fromkeys(r["forecaster"] for r in forecasts))
    yield PageSection(
        f"One window under all seeds: {name}", [f"The window in the middle of the test, by {titles}."], shown
    )
    yield PageSection(f"Spread over seeds: {name}", ["Each point is a seed."], [figures.seeds(cells, "mse")])
    perturbations = [n for n in dict.fromkeys(r["perturbation"] for r in cells) if n != NONE]
    if perturbations:
        yield PageSection(
            f"Error under perturbations: {name}",
            ["Means over seeds; bands reach from the smallest to the largest."],
            [figures.degradation(cells, perturbation, "mae") for perturbation in perturbations],
        )
        yield PageSection(
            f"What perturbations cost: {name}",
            ["Growth of the absolute error over that without perturbation, in percent, of means over seeds."],
            [figures.heat(cells, "mae")],
        )


def _spread_section(rows: Sequence[Row]) -> PageSection:
    header = [
        "data set",
        "forecaster",
        "training",
        "horizon",
        "metric",
        "seeds",
        "mean",
        "sd",
        "interval",
        "range",
        "preference, %",
    ]
    table = [
        [
            r["dataset"],
            r["forecaster"],
            r["training"],
            str(r["horizon"]),
            r["metric"],
            str(r["seeds"]),
            f"{r['mean']:.4f}",
            number_text(r["deviation"], ".5f"),
            interval_text(r["deviation_low"], r["deviation_high"], ".5f"),
            f"{r['range']:.5f}",
            number_text(r["preference"], ".1f"),
        ]
        for r in rows
    ]
    text = (
        "Without perturbation. Preference is the papers': 100 % where a faithful forecaster does not move with the "
        "seed at all, 0 where it moves as the plain one does; its median over seeds against the first."
    )
    return PageSection("Spread over seeds", [text], [], [Table(header, table)])


def _difference_section(rows: Sequence[Row]) -> PageSection:
    header = [
        "data set",
        "forecaster",
        "H",
        "perturbation",
        "metric",
        "training",
        "against",
        "seeds",
        "mean",
        "other",
        "difference",
        "interval",
    ]
    table = [
        [
            r["dataset"],
            r["forecaster"],
            str(r["horizon"]),
            r["perturbation"] if r["perturbation"] == NONE else f"{r['perturbation']} {r['level']:g}",
            r["metric"],
            r["training"],
            r["other"],
            str(r["seeds"]),
            f"{r['mean']:.4f}",
            f"{r['other_mean']:.4f}",
            f"{r['difference']:+.4f}",
            interval_text(r["ci_low"], r["ci_high"], "+.4f"),
        ]
        for r in rows
    ]
    text = (
        "Paired by seed; Student's 95 % intervals over seeds, each by itself: of twenty, one misses. Rise is what a "
        "perturbation adds to the error without it, moved the mean absolute change of the forecast itself. Faithful "
        "training is more training, too: what it is worth shows against longer plain training, where the grid has it."
    )
    tables = [Table(header, table, filtered="Show only rows with")]
    return PageSection("Trainings against each other", [text], [], tables)


def _worst_section(rows: Sequence[Row]) -> PageSection:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for r in rows:
        if r["value"] is not None:
            key = tuple(r[f] for f in _WORST_OF)
            groups.setdefault(key, []).append(r)
    header = [
        "data set",
        "forecaster",
        "training",
        "horizon",
        "condition",
        "norm",
        "goal",
        "radius",
        "largest",
        "mean",
        "windows",
    ]
    table = [
        [
            *map(str, key[:5]),
            key[5] or "",
            key[6] or "",
            number_text(key[7], ".3g"),
            f"{max(r['value'] for r in own):.4f}",
            f"{np.mean([r['mean'] for r in own]):.4f}",
            str(own[0]["windows"]),
        ]
        for key, own in groups.items()
    ]
    text = (
        "What gradient ascent finds inside a ball around test windows: a lower bound of the worst case, no more. sib: "
        "how far the sieved series moves (beta of the papers); snp: how far the forecast moves (alpha 2); cps: how far "
        "the faithful forecaster is from its teacher (alpha 1). The goal is what ascent makes large: own, the "
        "condition itself; conditions, both together; error, the error of the forecast. Largest is over windows and "
        "seeds."
    )
    return PageSection("Worst cases found", [text], [], [Table(header, table)])


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "Run", manifest.run_id
    for name, own in manifest.facts["series"].items():
        yield f"Series {name}", f"{own['rows']:,} rows, columns {', '.join(own['columns'])}; {own['windows']}"
    yield "Device", manifest.facts["device"]
    yield from run_facts(manifest)
