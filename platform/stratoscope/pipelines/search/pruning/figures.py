"""Figures of the search's report, and the names of its rows in them."""

import html
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from stratoscope.pipelines.reporting.figures import IntervalMark, interval_plot
from stratoscope.pipelines.reporting.formatting import interval_text, number_text
from stratoscope.pruning import RandomSetComparison
from stratoscope.results import COLOURS, INK, MUTED, SYMBOLS, PageSection, data_range, integer_step, style
from stratoscope.tables.pruning import ComparisonRow, FrontRow, PruningTrialRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

BASELINES = ("avss", "variance", "block_influence", "random", "last")
"""Metrics whose lines are initially visible. A click on the legend shows the others."""
MAX_LINES = 12
"""Maximum number of scores in a plot of retention by ratio."""
MAX_ROWS = 40
"""Maximum number of sets in the plot of dropped layers."""
RETENTION = "raw retention (after / before)"
MILLION = 10**6
RANDOM_ROW, CHOSEN_ROW = "random sets", "chosen set"


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
    """Return a trial's speed relative to the whole model, with its range; empty if an older version wrote the row."""
    speed = number_text(row.speed, ".2f")
    return f"{speed} ({interval_text(row.speed_low, row.speed_high, '.2f')})" if speed else ""


@dataclass(frozen=True)
class FrontAxis:
    """The horizontal axis of a figure of the front."""

    name: str
    """Name of the quantity, for the title of the figure."""
    title: str
    value: Callable[[PruningTrialRow], float]
    """Returns the value of a row."""
    form: str
    """Format of the values, such as `,.0f`."""
    whole: float
    """Value of the whole model."""
    is_count: bool = False
    """Whether values are whole numbers."""


def layers_axis() -> FrontAxis:
    """Return the axis of the number of dropped layers."""
    return FrontAxis(
        "number of layers", "layers dropped", lambda row: len(row.dropped_layers), ".0f", 0.0, is_count=True
    )


def speed_axis() -> FrontAxis:
    """Return the axis of the speed."""
    title = "speed of the forward pass (1 for the whole model)"
    return FrontAxis("speed", title, lambda row: math.nan if row.speed is None else row.speed, ".2f", 1.0)


def size_axis(whole: float) -> FrontAxis:
    """Return the axis of the size, from the number of parameters of the whole model."""
    if whole < MILLION:
        return FrontAxis("size", "parameters", lambda row: row.parameters, ",.0f", whole)
    return FrontAxis("size", "million parameters", lambda row: row.parameters / MILLION, ",.4~g", whole / MILLION)


def front_figure(trials: Sequence[PruningTrialRow], front: Sequence[FrontRow], axis: FrontAxis, model: str) -> "Figure":
    """Draw the retention of the front with intervals, and of all trials, against size or speed.

    Args:
        trials: the finished trials.
        front: the front.
        axis: the horizontal axis.
        model: name of the model.
    """
    from plotly.graph_objects import Figure

    shown = [row for row in front if row.held_out_raw is not None]
    others, chosen = [row for row in shown if not row.chosen], [row for row in shown if row.chosen]
    figure = Figure(
        [
            _points(trials, axis, "retention_raw", "trials, on the items of the search", {"color": MUTED, "size": 7}),
            *_front_points(others, axis, "front, held out", {"color": COLOURS[0], "size": 9}),
            *_front_points(chosen, axis, "chosen, held out", {"color": COLOURS[1], "symbol": "diamond", "size": 12}),
            _whole_model(axis),
        ]
    )
    style(figure, axis.title, RETENTION, title=f"{html.escape(model)}: what is kept, by {axis.name}", height=380)
    points = [row.retention_raw for row in trials if row.retention_raw is not None]
    low = [row.held_out_raw_low for row in shown if row.held_out_raw_low is not None]
    high = [row.held_out_raw_high for row in shown if row.held_out_raw_high is not None]
    figure.update_yaxes(tickformat=".0%", range=data_range([*points, *low, 1.0], [*points, *high, 1.0]))
    values = [axis.whole, *(axis.value(row) for row in trials)]
    figure.update_xaxes(range=data_range(values, values), tickformat=axis.form)
    if axis.is_count:
        figure.update_xaxes(dtick=integer_step(max(values)))
    return figure


def _whole_model(axis: FrontAxis) -> "Scatter":
    from plotly.graph_objects import Scatter

    return Scatter(
        x=[axis.whole],
        y=[1.0],
        name="whole model",
        mode="markers",
        marker={"color": INK, "symbol": "star", "size": 13},
        hovertemplate=f"whole model: %{{x:{axis.form}}}<extra></extra>",
    )


def _front_points(
    rows: Sequence[FrontRow], axis: FrontAxis, name: str, marker: Mapping[str, Any]
) -> Iterator["Scatter"]:
    """Yield the trace of sets with their intervals on held-out items; nothing if there are no sets."""
    if rows:
        bars = _error_bars([(row.held_out_raw, row.held_out_raw_low, row.held_out_raw_high) for row in rows])
        yield _points(rows, axis, "held_out_raw", name, marker, error_y=bars)


def _points(
    rows: Sequence[PruningTrialRow], axis: FrontAxis, y: str, name: str, marker: Mapping[str, Any], **look: Any
) -> "Scatter":
    """Return a trace of a column against an axis."""
    from plotly.graph_objects import Scatter

    return Scatter(
        x=[axis.value(row) for row in rows],
        y=[getattr(row, y) for row in rows],
        name=name,
        mode="markers",
        marker=marker,
        text=[f"{score_label(row)}<br>{layer_list(row)}" for row in rows],
        hovertemplate=f"%{{text}}<br>%{{x:{axis.form}}}: %{{y:.1%}}<extra></extra>",
        **look,
    )


def _error_bars(values: Sequence[tuple[float | None, float | None, float | None]]) -> dict[str, Any]:
    """Return the error bars of values with the ends of their intervals."""
    value, low, high = np.array(values, dtype=float).T
    return {
        "type": "data",
        "symmetric": False,
        "array": np.nan_to_num(high - value),
        "arrayminus": np.nan_to_num(value - low),
        "thickness": 1.5,
    }


def curve_section(trials: Sequence[PruningTrialRow], comparisons: Sequence[ComparisonRow], model: str) -> PageSection:
    """Return the section that shows retention by score and ratio: the mean over tasks, then each task."""
    by_metric: dict[tuple[str, str], dict[tuple[int, ...], ComparisonRow]] = {}
    for row in comparisons:
        if row.part == "search":
            by_metric.setdefault((row.task, row.metric), {})[tuple(row.dropped_layers)] = row
    num_metrics = Counter(task for task, _ in by_metric)
    plots = [(f"{model}, mean over tasks", _lines(trials, _mean_point))]
    for (task, metric), rows in by_metric.items():
        name = task if num_metrics[task] == 1 else f"{task}, {metric}"
        plots.append((f"{model}, {name}", _lines(trials, partial(_task_point, rows))))
    drawn = [(title, lines) for title, lines in plots if lines]
    ratios = {point.ratio for _, lines in drawn for points in lines.values() for point in points}
    draw = _curves if len(ratios) > 1 else _score_plot
    heading = "Retention by ratio" if len(ratios) > 1 else "Retention by score"
    figures = [draw(_selected(lines), title) for title, lines in drawn]
    return PageSection(heading, _curve_notes(ratios, drawn), figures)


def _curve_notes(ratios: set[float], drawn: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    if not drawn:
        return ["No trial selected layers by a score."]
    notes = [
        "Raw retention when each score drops its lowest layers, on the items of the search: first averaged over "
        "tasks, then task by task, with paired bootstrap intervals over items. The row or line random is the mean of "
        "its draws, and its bars are their range."
    ]
    if len(ratios) > 1:
        notes.append("Scores stand side by side at each ratio. The legend shows further scores on a click.")
    else:
        notes.append(f"Every score drops {next(iter(ratios)):.0%} of the layers. A grey interval includes no loss.")
    most = max(len(lines) for _, lines in drawn)
    if most > MAX_LINES:
        notes.append(f"{MAX_LINES} of {most} scores are drawn, the usual ones and the best; 'All trials' has all.")
    return notes


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
    """Return each score's points by ratio. The metric random gets the mean of its draws with their range."""
    lines: dict[str, dict[float, _Point]] = {}
    draws: dict[float, dict[int, float]] = {}
    for row in trials:
        value = point(row)
        if value is None or row.contiguous is None or row.contiguous:
            continue
        if row.draw is not None:
            draws.setdefault(value.ratio, {}).setdefault(row.draw, value.value)
        else:
            lines.setdefault(score_label(row, with_ratio=False), {}).setdefault(value.ratio, value)
    if draws:
        lines["random"] = {r: _mean_of(r, list(own.values())) for r, own in draws.items()}
    return {name: [points[ratio] for ratio in sorted(points)] for name, points in sorted(lines.items())}


def _mean_of(ratio: float, values: Sequence[float]) -> _Point:
    return _Point(ratio, float(np.mean(values)), min(values), max(values))


def _is_baseline(line: str) -> bool:
    name, *settings = line.split(", ")
    return name in BASELINES and (not settings or settings[0] == "update")


def _selected(lines: Mapping[str, list[_Point]]) -> dict[str, list[_Point]]:
    """Return the lines that are drawn: those of the usual scores, and the best of the others."""

    def rank(name: str) -> tuple[bool, float]:
        return not _is_baseline(name), -float(np.mean([point.value for point in lines[name]]))

    names = sorted(lines, key=rank)[:MAX_LINES]
    return {name: points for name, points in lines.items() if name in names}


def _score_plot(lines: Mapping[str, list[_Point]], title: str) -> "Figure":
    """Draw the retention at one ratio, with one row for each score and the best score at the top."""
    ordered = sorted(((name, points[0]) for name, points in lines.items()), key=lambda item: -item[1].value)
    marks = [
        IntervalMark(name, point.value, point.low, point.high, not point.low <= 1 <= point.high)
        for name, point in ordered
    ]
    return interval_plot(marks, RETENTION, title=title, form=".0%", reference=1.0)


def _curves(lines: Mapping[str, list[_Point]], title: str) -> "Figure":
    """Draw the retention by ratio, with one line for each score. At each ratio, the scores are shown side by side."""
    from plotly.graph_objects import Figure

    ratios = sorted({point.ratio for points in lines.values() for point in points})
    step = 0.4 * min(b - a for a, b in pairwise(ratios)) / len(lines)
    visible = [name for name in lines if _is_baseline(name)] or list(lines)
    traces = [
        _curve(name, points, index, (index - (len(lines) - 1) / 2) * step, is_visible=name in visible)
        for index, (name, points) in enumerate(lines.items())
    ]
    figure = Figure(traces)
    style(figure, "share of layers dropped", RETENTION, title=html.escape(title), height=400)
    drawn = [point for name in visible for point in lines[name]]
    figure.update_yaxes(tickformat=".0%", range=data_range([p.low for p in drawn], [p.high for p in drawn]))
    figure.update_xaxes(tickvals=ratios, tickformat=".0%")
    return figure


def _curve(name: str, points: Sequence[_Point], index: int, shift: float, *, is_visible: bool) -> "Scatter":
    from plotly.graph_objects import Scatter

    label = html.escape(name)
    return Scatter(
        x=[point.ratio + shift for point in points],
        y=[point.value for point in points],
        name=label,
        mode="lines+markers",
        line={"color": COLOURS[index % len(COLOURS)], "dash": "solid" if index < len(COLOURS) else "dash"},
        marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8},
        error_y=_error_bars([(point.value, point.low, point.high) for point in points]),
        visible=True if is_visible else "legendonly",
        customdata=[point.ratio for point in points],
        hovertemplate=f"{label}<br>ratio %{{customdata:.0%}}: %{{y:.1%}}<extra></extra>",
    )


def raster_section(trials: Sequence[PruningTrialRow], num_layers: int, model: str) -> PageSection:
    """Return the section that shows which layers each set drops."""
    distinct: dict[tuple[int, ...], PruningTrialRow] = {}
    for row in trials:
        distinct.setdefault(tuple(row.dropped_layers), row)
    rows = _best_of_each_size(list(distinct.values()), MAX_ROWS)
    notes = ["Each row is an evaluated set of layers. Within a size, sets with the highest retention are at the top."]
    if len(rows) < len(distinct):
        notes.append(f"{len(rows)} of {len(distinct)} sets are drawn, the best of each size; 'All trials' has all.")
    if not rows:
        return PageSection("Dropped layers", ["No trial has a retention."])
    notes.append("A coloured cell is a dropped layer; the darker it is, the more the set retains.")
    return PageSection("Dropped layers", notes, [_raster(rows, num_layers, model)])


def _best_of_each_size(rows: Sequence[PruningTrialRow], most: int) -> list[PruningTrialRow]:
    """Return the rows with the highest retention of each size, in order of size and retention."""
    by_size: dict[int, list[PruningTrialRow]] = {}
    for row in sorted(rows, key=lambda row: -(row.retention_raw or 0.0)):
        by_size.setdefault(len(row.dropped_layers), []).append(row)
    ranked = [(rank, size) for size, own in by_size.items() for rank in range(len(own))]
    kept = Counter(size for _, size in sorted(ranked)[:most])
    # A heat map is drawn from the bottom to the top.
    return [row for size in sorted(by_size) for row in reversed(by_size[size][: kept[size]])]


def _raster(rows: Sequence[PruningTrialRow], num_layers: int, model: str) -> "Figure":
    from plotly.graph_objects import Figure, Heatmap

    shade = np.zeros((len(rows), num_layers))
    for index, row in enumerate(rows):
        shade[index, list(row.dropped_layers)] = max(0.15, min(1.0, row.retention_raw or 0.0))
    labels = [f"{score_label(row)}: {number_text(row.retention_raw, '.1%')}" for row in rows]
    figure = Figure(
        Heatmap(
            z=shade,
            x=list(range(num_layers)),
            y=[f"{number_text(row.retention_raw, '.0%')}, trial {row.trial_id}" for row in rows],
            colorscale=[[0, "#f1f4f7"], [0.149, "#f1f4f7"], [0.15, "#cfe0ec"], [1, COLOURS[0]]],
            zmin=0,
            zmax=1,
            showscale=False,
            xgap=1,
            ygap=1,
            text=[[label] * num_layers for label in labels],
            hovertemplate="%{text}<br>layer %{x}<extra></extra>",
        )
    )
    style(
        figure,
        "layer",
        "",
        title=f"{html.escape(model)}: layers that each set drops",
        height=100 + 20 * len(rows),
    )
    figure.update_xaxes(dtick=integer_step(num_layers, 15))
    figure.update_yaxes(tickfont={"size": 11}, dtick=1)
    return figure


def random_figure(comparison: RandomSetComparison, chosen: FrontRow, model: str) -> "Figure":
    """Draw the retention of each random set as a point, and that of the chosen set with its interval."""
    from plotly.graph_objects import Figure, Scatter

    is_finding = comparison.p_value <= comparison.level
    own = (comparison.chosen, chosen.held_out_raw_low, chosen.held_out_raw_high)
    # Points are spread over the row in a fixed pattern, so that points with equal values are visible.
    heights = [1 + 0.5 * ((0.618 * index) % 1 - 0.5) for index in range(len(comparison.random))]
    figure = Figure(
        [
            Scatter(
                x=comparison.random,
                y=heights,
                mode="markers",
                name=RANDOM_ROW,
                marker={"color": MUTED, "size": 8},
                hovertemplate="random set: %{x:.1%}<extra></extra>",
            ),
            Scatter(
                x=[comparison.chosen],
                y=[0],
                mode="markers",
                name=CHOSEN_ROW,
                marker={"color": COLOURS[1] if is_finding else INK, "symbol": "diamond", "size": 12},
                error_x=_error_bars([own]),
                hovertemplate="chosen set: %{x:.1%}<extra></extra>",
            ),
        ]
    )
    number = len(chosen.dropped_layers)
    title = f"{html.escape(model)} without {number} layer{'' if number == 1 else 's'}: chosen and random sets"
    style(figure, f"{RETENTION}, held-out items", "", title=title, height=230)
    values = [*comparison.defined, *(value for value in own if value is not None and not math.isnan(value))]
    figure.update_xaxes(tickformat=".0%", range=data_range(values, values))
    figure.update_yaxes(tickvals=[0, 1], ticktext=[CHOSEN_ROW, RANDOM_ROW], range=[1.6, -0.6], zeroline=False)
    figure.update_layout(showlegend=False)
    return figure
