"""The pictures of the search's report, and how its rows are named in them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from stratoscope.results import COLOURS, SYMBOLS, PageSection, style

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


def _is_baseline(line: str) -> bool:
    name, *rest = line.split(", ")
    return name in FEW_BASELINES and (not rest or rest[0] == "update")


def curve_section(done: list[Row], compared: list[Row]) -> PageSection:
    """Return the section that shows retention by ratio, a line for each score: the mean over tasks, then each task."""
    of_task: dict[str, dict[tuple[int, ...], Row]] = {}
    for row in compared:
        if row["part"] == "search":
            of_task.setdefault(row["task"], {})[tuple(row["dropped_layers"])] = row
    figures = [_curves(_lines(done, _mean_point), "raw retention, mean over tasks")]
    for task, rows in of_task.items():
        figures.append(_curves(_lines(done, partial(_task_point, rows)), f"raw retention, {task}"))
    return PageSection(
        "Retention by ratio",
        [
            "What is kept of the whole model when each score drops its lowest layers, on the items of the search: raw "
            "retention, first averaged over tasks, then task by task, with paired bootstrap intervals over items. The "
            "line random is the mean of its draws, its bars their range. The dotted line is 90 %. Further scores are "
            "switched on in the legend."
        ],
        figures if done else [],
    )


@dataclass(frozen=True)
class _Point:
    ratio: float
    value: float
    low: float
    high: float


def _mean_point(trial: Row) -> _Point | None:
    return _point(trial["ratio"], trial, "retention_raw")


def _task_point(rows: dict[tuple[int, ...], Row], trial: Row) -> _Point | None:
    return _point(trial["ratio"], rows.get(tuple(trial["dropped_layers"])), "raw")


def _point(ratio: float, row: Row | None, column: str) -> _Point | None:
    if row is None or row[column] is None or np.isnan(row[column]):
        return None
    return _Point(ratio, row[column], row[f"{column}_low"], row[f"{column}_high"])


def _lines(done: list[Row], point: Callable[[Row], _Point | None]) -> dict[str, list[_Point]]:
    """Return the points of each score by ratio; of the metric random the mean over draws, with their range."""
    lines: dict[str, dict[float, _Point]] = {}
    draws: dict[float, list[float]] = {}
    for row in done:
        found = point(row)
        if found is None or row["contiguous"] is None or row["contiguous"]:
            continue
        if row["draw"] is not None:
            draws.setdefault(found.ratio, []).append(found.value)
        else:
            lines.setdefault(label(row, with_ratio=False), {}).setdefault(found.ratio, found)
    if draws:
        lines["random"] = {r: _Point(r, float(np.mean(v)), min(v), max(v)) for r, v in draws.items()}
    return {name: [points[ratio] for ratio in sorted(points)] for name, points in sorted(lines.items())}


def _curves(lines: dict[str, list[_Point]], title: str) -> "Figure":
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for index, (name, points) in enumerate(lines.items()):
        value = np.array([p.value for p in points])
        figure.add_trace(
            Scatter(
                x=[p.ratio for p in points],
                y=value,
                name=name,
                mode="lines+markers",
                line={"color": COLOURS[index % len(COLOURS)]},
                marker={"symbol": SYMBOLS[(index // len(COLOURS)) % len(SYMBOLS)], "size": 8},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": np.array([p.high for p in points]) - value,
                    "arrayminus": value - np.array([p.low for p in points]),
                    "thickness": 1,
                },
                visible=True if _is_baseline(name) else "legendonly",
                hovertemplate=f"{name}<br>ratio %{{x:.0%}}: %{{y:.1%}}<extra></extra>",
            )
        )
    figure.add_hline(y=0.9, line_dash="dot", line_color="#5b6875")
    style(figure, "share of layers dropped", title, height=400)
    figure.update_layout(legend={"orientation": "v", "y": 1, "x": 1.02})
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(tickformat=".0%")
    return figure


def raster_section(done: list[Row], num_layers: int) -> PageSection:
    """Return the section that shows which layers each set drops."""
    from plotly.graph_objects import Figure, Heatmap

    seen: dict[tuple[int, ...], Row] = {}
    for row in done:
        seen.setdefault(tuple(row["dropped_layers"]), row)
    rows = sorted(seen.values(), key=lambda r: (len(r["dropped_layers"]), r["retention_raw"]))
    paragraph = "Each row is a set of layers that was tried, those that keep most at the top of their size."
    if not rows:
        return PageSection("Dropped layers", [paragraph])
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
    return PageSection("Dropped layers", [paragraph + " A coloured cell is a layer dropped."], [figure])


def random_section(against: dict[str, Any]) -> PageSection:
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
    return PageSection(
        "Against random sets",
        [f"Random sets of the chosen size on items that the search never saw; p = {against['p']:.3f}."],
        [figure],
    )
