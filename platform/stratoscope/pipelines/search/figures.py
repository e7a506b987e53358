"""The pictures of the search's report, and how its rows are named in them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from stratoscope.results import COLOURS, SYMBOLS, Section, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Row = dict[str, Any]
FEW_BASELINES = ("avss", "variance", "block_influence", "random", "last")
"""Metrics whose lines are shown from the start; a click on the legend shows the others."""


def label(row: Row, *, with_ratio: bool = True) -> str:
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


def layers(row: Row) -> str:
    """Return a row's dropped layers as text."""
    return " ".join(map(str, row["dropped_layers"]))


def percent(value: float | None) -> str:
    """Return a share as text, nothing where there is none."""
    return "" if value is None or np.isnan(value) else f"{value:.1%}"


def interval(row: Row, column: str) -> str:
    """Return the interval of a column as text."""
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return "" if low is None or np.isnan(low) else f"{low:.1%} to {high:.1%}"


def front_figure(done: list[Row], front: list[Row], facts: dict[str, Any], column: str, title: str) -> "Figure":
    """Draw trials and the front, retention against a column."""
    from plotly.graph_objects import Figure, Scatter

    def points(rows: list[Row], name: str, **look: Any) -> Any:
        return Scatter(
            x=[row[column] for row in rows],
            y=[row["retention_raw"] for row in rows],
            name=name,
            text=[f"{label(row)}<br>{layers(row)}" for row in rows],
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


def _draws_together(lines: dict[str, dict[float, Row]]) -> dict[str, list[Row]]:
    """Join the draws of the metric random to one line: their mean, and their range as its interval."""
    merged: dict[str, list[Row]] = {}
    draws: dict[float, list[float]] = {}
    for name, points in lines.items():
        if name.startswith("random"):
            for ratio, row in points.items():
                draws.setdefault(ratio, []).append(row["retention_raw"])
        else:
            merged[name] = list(points.values())
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
    return {name: sorted(points, key=lambda p: p["ratio"]) for name, points in merged.items()}


def _is_baseline(line: str) -> bool:
    name, *rest = line.split(", ")
    return name in FEW_BASELINES and (not rest or rest[0] == "update")


def curve_section(done: list[Row]) -> Section:
    """Return the section that shows retention by ratio, a line for each score."""
    from plotly.graph_objects import Figure, Scatter

    lines: dict[str, dict[float, Row]] = {}
    for row in done:
        if row["contiguous"] is not None and not row["contiguous"]:
            lines.setdefault(label(row, with_ratio=False), {}).setdefault(row["ratio"], row)
    merged = _draws_together(lines)
    figure = Figure()
    for index, (name, points) in enumerate(sorted(merged.items())):
        value = np.array([p["retention_raw"] for p in points])
        figure.add_trace(
            Scatter(
                x=[p["ratio"] for p in points],
                y=value,
                name=name,
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
                visible=True if _is_baseline(name) else "legendonly",
                hovertemplate=f"{name}<br>ratio %{{x:.0%}}: %{{y:.1%}}<extra></extra>",
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


def raster_section(done: list[Row], num_layers: int) -> Section:
    """Return the section that shows which layers each set drops."""
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
            y=[f"{r['trial_id']} {label(r)}: {percent(r['retention_raw'])}" for r in rows],
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


def random_section(against: dict[str, Any]) -> Section:
    """Return the section that shows the chosen set among random ones."""
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
