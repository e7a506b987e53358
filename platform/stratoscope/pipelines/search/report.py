"""What the search job shows: the front in the terminal, and the report page."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table as TerminalTable

from stratoscope.results import COLOURS, SYMBOLS, Manifest, Page, Section, Storage, Table, read_table, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Row = dict[str, Any]
FEW_BASELINES = ("avss", "variance", "block_influence", "random", "last")
"""Metrics whose lines are shown from the start; a click on the legend shows the others."""


def summary_table(storage: Storage, manifest: Manifest) -> TerminalTable:
    """Return the front: what each set drops and what it keeps."""
    table = TerminalTable(title="Pareto front, on held-out items; * is the chosen set", title_justify="left")
    for name in ("", "layers dropped", "by", "retention", "interval", "above chance", "million parameters", "tokens/s"):
        table.add_column(name, justify="left" if name in ("", "layers dropped", "by") else "right")
    for row in read_table(storage, "front").to_pylist():
        table.add_row(
            "*" if row["chosen"] else "",
            _layers(row),
            _label(row),
            _percent(row["held_out_raw"]),
            _interval(row, "held_out_raw"),
            _percent(row["held_out_above_chance"]),
            f"{row['parameters'] / 1e6:,.1f}",
            f"{row['tokens_per_s']:,.0f}",
        )
    table.caption = f"the whole model: {manifest.facts['parameters'] / 1e6:,.1f} million parameters, "
    table.caption += f"{manifest.facts['tokens_per_s']:,.0f} tokens/s"
    return table


def build_page(storage: Storage, manifest: Manifest) -> Page:
    """Compose the report of a run from its tables."""
    trials = read_table(storage, "trials").to_pylist()
    front = read_table(storage, "front").to_pylist()
    compared = read_table(storage, "comparison").to_pylist()
    done = [row for row in trials if row["status"] == "done" and row["retention_raw"] is not None]
    model, facts = manifest.config["model"]["source"], manifest.facts
    sections = [
        Section("Verdict", facts["verdicts"], [], [_front_table(front)]),
        _curve_section(done),
        *_size_sections(done, front, facts),
        _raster_section(done, facts["num_layers"]),
        _task_section(compared),
    ]
    if "against_random" in facts:
        sections.append(_random_section(facts["against_random"]))
    if facts["against_variance"]:
        sections.insert(2, Section("Does sparsity add anything to variance?", facts["against_variance"]))
    if storage.exists("speed.parquet"):
        sections.append(_speed_section(read_table(storage, "speed").to_pylist(), facts))
    sections.append(_trials_section(trials))
    return Page(
        title=f"What {model} can do without",
        summary=(
            f"{len(trials)} trials by {manifest.config['search']['algorithm']} over {facts['num_layers']} layers, on "
            f"{', '.join(facts['tasks'])}. Layers are numbered from 0, as in model.layers."
        ),
        sections=sections,
        facts=list(_facts(manifest)),
    )


def _front_table(front: list[Row]) -> Table:
    header = ["", "layers dropped", "by", "retention, search", "retention, held out", "interval", "above chance"]
    rows = [
        [
            "chosen" if row["chosen"] else "",
            _layers(row),
            _label(row),
            _percent(row["retention_raw"]),
            _percent(row["held_out_raw"]),
            _interval(row, "held_out_raw"),
            _percent(row["held_out_above_chance"]),
        ]
        for row in front
    ]
    return Table(header, rows)


def _curve_section(done: list[Row]) -> Section:
    from plotly.graph_objects import Figure, Scatter

    lines: dict[str, dict[float, Row]] = {}
    for row in done:
        if row["contiguous"] is not None and not row["contiguous"]:
            lines.setdefault(_label(row, with_ratio=False), {}).setdefault(row["ratio"], row)
    merged = _draws_together(lines)
    figure = Figure()
    for index, (label, points) in enumerate(sorted(merged.items())):
        value = np.array([p["retention_raw"] for p in points])
        figure.add_trace(
            Scatter(
                x=[p["ratio"] for p in points],
                y=value,
                name=label,
                mode="lines+markers",
                line={"color": COLOURS[index % len(COLOURS)]},
                marker={"symbol": SYMBOLS[(index // len(COLOURS)) % len(SYMBOLS)], "size": 8},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": np.array([p["retention_raw_high"] for p in points]) - value,
                    "arrayminus": value - np.array([p["retention_raw_low"] for p in points]),
                    "thickness": 1,
                },
                visible=True if _is_baseline(label) else "legendonly",
                hovertemplate=f"{label}<br>ratio %{{x:.0%}}: %{{y:.1%}}<extra></extra>",
            )
        )
    figure.add_hline(y=0.9, line_dash="dot", line_color="#5b6875")
    style(figure, "share of layers dropped", "raw retention, mean over tasks", height=460)
    figure.update_layout(legend={"orientation": "v", "y": 1, "x": 1.02})
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(tickformat=".0%")
    return Section(
        "Retention by ratio",
        [
            "What is kept of the whole model when each score drops its lowest layers, on the items of the search: raw "
            "retention, averaged over tasks, with paired bootstrap intervals over items. The line random is the mean "
            "of its draws, its bars their range. The dotted line is 90 %. Further scores are switched on in the "
            "legend."
        ],
        [figure] if merged else [],
    )


def _draws_together(lines: dict[str, dict[float, Row]]) -> dict[str, list[Row]]:
    """Join the draws of the metric random to one line: their mean, and their range as its interval."""
    merged: dict[str, list[Row]] = {}
    draws: dict[float, list[float]] = {}
    for label, points in lines.items():
        if label.startswith("random"):
            for ratio, row in points.items():
                draws.setdefault(ratio, []).append(row["retention_raw"])
        else:
            merged[label] = list(points.values())
    if draws:
        merged["random"] = [
            {
                "ratio": ratio,
                "retention_raw": float(np.mean(values)),
                "retention_raw_low": min(values),
                "retention_raw_high": max(values),
            }
            for ratio, values in draws.items()
        ]
    return {label: sorted(points, key=lambda p: p["ratio"]) for label, points in merged.items()}


def _is_baseline(label: str) -> bool:
    name, *rest = label.split(", ")
    return name in FEW_BASELINES and (not rest or rest[0] == "update")


def _size_sections(done: list[Row], front: list[Row], facts: dict[str, Any]) -> Iterator[Section]:
    if not done:
        return
    yield Section(
        "Retention against speed and size",
        [
            "Every finished trial, and the front. Speed is that of a forward pass over a batch without the vocabulary "
            "head, the median of several; all sets of one size are as fast as each other."
        ],
        [
            _front_figure(done, front, facts, "tokens_per_s", "tokens/s"),
            _front_figure(done, front, facts, "parameters", "parameters"),
        ],
    )


def _front_figure(done: list[Row], front: list[Row], facts: dict[str, Any], column: str, title: str) -> "Figure":
    from plotly.graph_objects import Figure, Scatter

    def points(rows: list[Row], name: str, **look: Any) -> Any:
        return Scatter(
            x=[row[column] for row in rows],
            y=[row["retention_raw"] for row in rows],
            name=name,
            text=[f"{_label(row)}<br>{_layers(row)}" for row in rows],
            hovertemplate="%{text}<br>%{x:,.0f}: %{y:.1%}<extra></extra>",
            **look,
        )

    figure = Figure(
        [
            points(done, "trials", mode="markers", marker={"color": "#b8c4cf", "size": 7}),
            points(
                front,
                "front, on the items of the search",
                mode="lines+markers",
                line={"color": COLOURS[0]},
                marker={"size": 10},
            ),
            Scatter(
                x=[row[column] for row in front],
                y=[row["held_out_raw"] for row in front],
                name="front, held out",
                mode="markers",
                marker={"color": COLOURS[1], "symbol": "diamond", "size": 10},
                hovertemplate="held out<br>%{x:,.0f}: %{y:.1%}<extra></extra>",
            ),
            Scatter(
                x=[facts[column]],
                y=[1.0],
                name="the whole model",
                mode="markers",
                marker={"color": "#1d2733", "symbol": "star", "size": 13},
                hovertemplate="the whole model: %{x:,.0f}<extra></extra>",
            ),
        ]
    )
    style(figure, title, "raw retention", height=380)
    figure.update_yaxes(tickformat=".0%")
    return figure


def _raster_section(done: list[Row], num_layers: int) -> Section:
    from plotly.graph_objects import Figure, Heatmap

    seen: dict[tuple[int, ...], Row] = {}
    for row in done:
        seen.setdefault(tuple(row["dropped_layers"]), row)
    rows = sorted(seen.values(), key=lambda r: (len(r["dropped_layers"]), r["retention_raw"]))
    paragraph = "Each row is a set of layers that was tried, those that keep most at the top of their size."
    if not rows:
        return Section("Dropped layers", [paragraph])
    shade = np.zeros((len(rows), num_layers))
    for index, row in enumerate(rows):
        shade[index, row["dropped_layers"]] = max(0.15, min(1.0, row["retention_raw"]))
    figure = Figure(
        Heatmap(
            z=shade,
            x=list(range(num_layers)),
            y=[f"{r['trial_id']} {_label(r)}: {_percent(r['retention_raw'])}" for r in rows],
            colorscale=[[0, "#f1f4f7"], [0.149, "#f1f4f7"], [0.15, "#cfe0ec"], [1, COLOURS[0]]],
            zmin=0,
            zmax=1,
            colorbar={"title": "retention", "tickformat": ".0%"},
            xgap=1,
            ygap=1,
            hovertemplate="%{y}<br>layer %{x}<extra></extra>",
        )
    )
    style(figure, "layer", "", height=120 + 18 * len(rows), by_layer=True)
    figure.update_yaxes(tickfont={"size": 10}, dtick=1)
    return Section("Dropped layers", [paragraph + " A coloured cell is a layer dropped."], [figure])


def _task_section(compared: list[Row]) -> Section:
    header = ["task", "measure", "items", "chance", "before", "after", "raw", "above chance", "difference"]
    tables = []
    for part in ("held_out", "search"):
        rows = [row for row in compared if row["kind"] == "chosen" and row["part"] == part]
        tables.append(
            Table(
                [*header[:1], f"measure ({part.replace('_', ' ')})", *header[2:]],
                [
                    [
                        row["task"],
                        row["metric"],
                        str(row["items"]),
                        f"{row['chance']:.3f}",
                        f"{row['before']:.3f}{_bits(row['bits_per_byte_before'])}",
                        f"{row['after']:.3f}{_bits(row['bits_per_byte_after'])}",
                        f"{_percent(row['raw'])} ({_interval(row, 'raw')})",
                        _above(row),
                        _difference(row),
                    ]
                    for row in rows
                ],
            )
        )
    return Section(
        "The chosen set, task by task",
        [
            "Raw retention is after / before; above chance it is counted from what guessing gets right, and left out "
            "where the whole model is not two standard errors above that. Intervals are paired bootstrap over items. "
            "Of language-model text the accuracy is that of the next token, and bits per byte stand beside it."
        ],
        [],
        tables,
    )


def _random_section(against: dict[str, Any]) -> Section:
    from plotly.graph_objects import Box, Figure

    figure = Figure(
        Box(
            x=against["random"],
            name="random sets",
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            marker={"color": COLOURS[5], "size": 8},
            line={"color": "#5b6875"},
            hovertemplate="%{x:.1%}<extra></extra>",
        )
    )
    figure.add_vline(x=against["chosen"], line_color=COLOURS[1], line_width=3, annotation_text="chosen")
    style(figure, "raw retention on held-out items", "", height=220)
    figure.update_xaxes(tickformat=".0%")
    return Section(
        "Against random sets",
        [f"Random sets of the chosen size on items that the search never saw; p = {against['p']:.3f}."],
        [figure],
    )


def _speed_section(pairs: list[Row], facts: dict[str, Any]) -> Section:
    rows = [
        [
            row["what"],
            f"{row['before']:,.1f} {row['unit']}",
            f"{row['after']:,.1f} {row['unit']}",
            f"{row['gain']:.2f} ({row['gain_low']:.2f} to {row['gain_high']:.2f})",
        ]
        for row in pairs
    ]
    return Section(
        "The exported checkpoint",
        [
            f"{facts.get('exported', '')} was loaded in a fresh process by plain transformers: its logits, and what it "
            "generates with the KV cache, are those of the pruned model to the bit. Times are medians of runs in "
            "pairs, the gain is the median of their ratios with its range."
        ],
        [],
        [Table(["", "original", "exported", "times as fast"], rows)],
    )


def _trials_section(trials: list[Row]) -> Section:
    rows = [
        [
            row["trial_id"],
            row["origin"],
            _label(row),
            _layers(row),
            _percent(row["retention_raw"]),
            _interval(row, "retention_raw"),
            f"{row['share_of_items']:.0%}",
            row["status"] if row["error"] is None else f"{row['status']}: {row['error']}",
        ]
        for row in trials
    ]
    header = ["trial", "origin", "score", "layers dropped", "retention", "interval", "of the items", "status"]
    return Section("All trials", [], [], [Table(header, rows)])


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    facts, counts = manifest.facts, manifest.counts
    yield "Run", manifest.run_id
    yield (
        "Model",
        f"{manifest.config['model']['source']} ({facts['architecture']}, {facts['num_layers']} layers, "
        f"{facts['parameters'] / 1e6:,.1f} million parameters)",
    )
    yield "Weights", manifest.fingerprints["weights"]
    yield "Statistics", facts["statistics"]
    yield "Number format", f"{facts['dtype']} on {facts['device']}, {facts['threads']} threads"
    for name, task in facts["tasks"].items():
        yield (
            f"Task {name}",
            f"{task['metric']}; {task['search']} items for the search, {task['held_out']} held out, "
            f"{task['calibrated']} left out for having been calibrated on",
        )
    yield "Evaluations", f"{counts['evaluations']} of sets on slices of items, each kept when it is done"
    yield "Seconds", ", ".join(f"{stage} {seconds:,.1f}" for stage, seconds in manifest.timings.items())
    yield "Seed", str(manifest.seed)
    yield "Versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield "Commit", manifest.git_commit or "not a checkout"


def _label(row: Row, *, with_ratio: bool = True) -> str:
    """Name a trial's score with what tells it from others."""
    parts = [row["metric"], row["tap"]]
    if row["variance"] == "pooled":
        parts.append("pooled")
    if row["epsilon"] is not None:
        parts.append(f"epsilon {row['epsilon']:.3g}")
    if row["draw"] is not None:
        parts.append(f"draw {row['draw']}")
    if row["contiguous"]:
        parts.append("one span")
    if with_ratio:
        parts.append(f"{row['ratio']:.0%}")
    return ", ".join(part for part in parts if part)


def _layers(row: Row) -> str:
    return " ".join(map(str, row["dropped_layers"]))


def _percent(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.1%}"


def _interval(row: Row, column: str) -> str:
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return "" if low is None or np.isnan(low) else f"{low:.1%} to {high:.1%}"


def _above(row: Row) -> str:
    if row["above_chance"] is None:
        return "the whole model is not above chance"
    return f"{_percent(row['above_chance'])} ({_interval(row, 'above_chance')})"


def _difference(row: Row) -> str:
    text = f"{row['difference_low']:+.3f} to {row['difference_high']:+.3f}"
    return f"{text}: within noise" if row["within_noise"] else text


def _bits(value: float | None) -> str:
    return "" if value is None else f", {value:.3f} bits per byte"
