"""Figures of the search's report, and the names of its rows in them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from stratoscope.pipelines.reporting.formatting import interval_text, number_text
from stratoscope.results import COLOURS, SYMBOLS, PageSection, style
from stratoscope.statistics import least_rank_p
from stratoscope.tables.pruning import ComparisonRow, FrontRow, PruningTrialRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BASELINES = ("avss", "variance", "block_influence", "random", "last")
"""Metrics whose lines are visible at first; a click on the legend shows the others."""


def score_label(row: PruningTrialRow, *, with_ratio: bool = True) -> str:
    """Return a name for a trial's score that distinguishes it from others."""
    parts = [row.metric, row.tap]
    if row.variance == "pooled":
        parts.append("pooled")
    if row.epsilon is not None:
        parts.append(f"epsilon {row.epsilon:.3g}")
    if row.draw is not None:
        parts.append(f"draw {row.draw}")
    if row.contiguous:
        parts.append("one span")
    if with_ratio:
        parts.append(f"{row.ratio:.0%}")
    return ", ".join(part for part in parts if part)


def layer_list(row: PruningTrialRow) -> str:
    """Return a trial's dropped layers as text."""
    return " ".join(map(str, row.dropped_layers))


def speed_text(row: PruningTrialRow) -> str:
    """Return a trial's speed against the whole model's, with its range; empty where an older version wrote the row."""
    speed = number_text(row.speed, ".2f")
    return f"{speed} ({interval_text(row.speed_low, row.speed_high, '.2f')})" if speed else ""


def front_figure(
    trials: Sequence[PruningTrialRow],
    front: Sequence[FrontRow],
    column: str,
    *,
    title: str,
    form: str,
    whole: float,
) -> "Figure":
    """Draw retention against a column, for all trials and the front.

    Args:
        trials: the finished trials.
        front: the front.
        column: name of the column.
        title: title of its axis.
        form: format of its values on the page, such as `,.0f`.
        whole: its value for the whole model.
    """
    from plotly.graph_objects import Figure, Scatter

    points = partial(_points, column=column, form=form)
    held_out = {"color": COLOURS[1], "symbol": "diamond", "size": 10}
    figure = Figure(
        [
            points(trials, y="retention_raw", name="trials", marker={"color": "#b8c4cf", "size": 7}),
            points(
                front,
                y="retention_raw",
                name="front, on the items of the search",
                mode="lines+markers",
                line={"color": COLOURS[0]},
                marker={"size": 10},
            ),
            points(front, y="held_out_raw", name="front, held out", marker=held_out),
            Scatter(
                x=[whole],
                y=[1.0],
                name="whole model",
                mode="markers",
                marker={"color": "#1d2733", "symbol": "star", "size": 13},
                hovertemplate=f"whole model: %{{x:{form}}}<extra></extra>",
            ),
        ]
    )
    style(figure, title, "raw retention", height=380)
    figure.update_yaxes(tickformat=".0%")
    return figure


def _points(
    rows: Sequence[PruningTrialRow], *, column: str, form: str, y: str, name: str, mode: str = "markers", **look: Any
) -> Any:
    """Return a trace of two columns."""
    from plotly.graph_objects import Scatter

    return Scatter(
        x=[getattr(row, column) for row in rows],
        y=[getattr(row, y) for row in rows],
        name=name,
        mode=mode,
        text=[f"{score_label(row)}<br>{layer_list(row)}" for row in rows],
        hovertemplate=f"%{{text}}<br>%{{x:{form}}}: %{{y:.1%}}<extra></extra>",
        **look,
    )


def curve_section(trials: Sequence[PruningTrialRow], comparisons: Sequence[ComparisonRow]) -> PageSection:
    """Return the section that shows retention by ratio, a line per score: the mean over tasks, then each task."""
    by_metric: dict[tuple[str, str], dict[tuple[int, ...], ComparisonRow]] = {}
    for row in comparisons:
        if row.part == "search":
            by_metric.setdefault((row.task, row.metric), {})[tuple(row.dropped_layers)] = row
    num_metrics = Counter(task for task, _ in by_metric)
    figures = [_curves(_lines(trials, _mean_point), "raw retention, mean over tasks")]
    for (task, metric), rows in by_metric.items():
        name = task if num_metrics[task] == 1 else f"{task}, {metric}"
        figures.append(_curves(_lines(trials, partial(_task_point, rows)), f"raw retention, {name}"))
    return PageSection(
        "Retention by ratio",
        [
            "Raw retention when each score drops its lowest layers, on the items of the search: first averaged over "
            "tasks, then task by task, with paired bootstrap intervals over items. The line random is the mean of its "
            "draws, and its bars are their range. The dotted line is 90 %. The legend shows further scores on a click."
        ],
        figures if trials else [],
    )


@dataclass(frozen=True)
class _Point:
    ratio: float
    value: float
    low: float
    high: float


def _mean_point(trial: PruningTrialRow) -> _Point | None:
    return _point(trial.ratio, trial.retention_raw, trial.retention_raw_low, trial.retention_raw_high)


def _task_point(rows: Mapping[tuple[int, ...], ComparisonRow], trial: PruningTrialRow) -> _Point | None:
    row = rows.get(tuple(trial.dropped_layers))
    return _point(trial.ratio, row.raw, row.raw_low, row.raw_high) if row else None


def _point(ratio: float, value: float | None, low: float | None, high: float | None) -> _Point | None:
    return None if value is None or low is None or high is None else _Point(ratio, value, low, high)


def _lines(
    trials: Sequence[PruningTrialRow], point: Callable[[PruningTrialRow], _Point | None]
) -> dict[str, list[_Point]]:
    """Return each score's points by ratio; the metric random has the mean of its draws, with their range."""
    lines: dict[str, dict[float, _Point]] = {}
    draws: dict[float, list[float]] = {}
    for row in trials:
        value = point(row)
        if value is None or row.contiguous is None or row.contiguous:
            continue
        if row.draw is not None:
            draws.setdefault(value.ratio, []).append(value.value)
        else:
            lines.setdefault(score_label(row, with_ratio=False), {}).setdefault(value.ratio, value)
    if draws:
        lines["random"] = {r: _Point(r, float(np.mean(v)), min(v), max(v)) for r, v in draws.items()}
    return {name: [points[ratio] for ratio in sorted(points)] for name, points in sorted(lines.items())}


def _is_baseline(line: str) -> bool:
    name, *settings = line.split(", ")
    return name in BASELINES and (not settings or settings[0] == "update")


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


def raster_section(trials: Sequence[PruningTrialRow], num_layers: int) -> PageSection:
    """Return the section that shows which layers each set drops."""
    from plotly.graph_objects import Figure, Heatmap

    distinct: dict[tuple[int, ...], tuple[float, PruningTrialRow]] = {}
    for row in trials:
        if row.retention_raw is not None:
            distinct.setdefault(tuple(row.dropped_layers), (row.retention_raw, row))
    rows = sorted(distinct.values(), key=lambda item: (len(item[1].dropped_layers), item[0]))
    paragraph = "Each row is an evaluated set of layers. Within a size, sets with the highest retention are at the top."
    if not rows:
        return PageSection("Dropped layers", [paragraph])
    shade = np.zeros((len(rows), num_layers))
    for index, (retention, row) in enumerate(rows):
        shade[index, list(row.dropped_layers)] = max(0.15, min(1.0, retention))
    figure = Figure(
        Heatmap(
            z=shade,
            x=list(range(num_layers)),
            y=[f"{row.trial_id} {score_label(row)}: {number_text(retention, '.1%')}" for retention, row in rows],
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
    return PageSection("Dropped layers", [paragraph + " A coloured cell is a dropped layer."], [figure])


def random_section(against: Mapping[str, Any]) -> PageSection:
    """Return the section that compares the chosen set with random ones."""
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
        [
            f"{len(against['random'])} random sets of the chosen size on held-out items; p = {against['p']:.3f}, of "
            f"which {least_rank_p(len(against['random'])):.3f} is the least that so many sets allow."
        ],
        [figure],
    )
