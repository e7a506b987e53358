"""Figures of the faithfulness report."""

import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from stratoscope.forecasting import NONE, TRAININGS, Measurement, Training
from stratoscope.pipelines.faithfulness.verdict import forecaster_name
from stratoscope.results import COLOURS, INK, MUTED, SYMBOLS, data_range, style
from stratoscope.tables.faithfulness import ForecastRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

ERRORS = {"mae": "absolute error, standardised", "mse": "squared error, standardised"}
"""Titles of axes that show errors."""
DASHES = dict(zip(TRAININGS, cycle(("solid", "dot", "dash", "dashdot", "longdash", "longdashdot")), strict=False))


def _by_model(measurements: Sequence[Measurement]) -> dict[tuple[str, Training], list[Measurement]]:
    groups: dict[tuple[str, Training], list[Measurement]] = {}
    for m in measurements:
        groups.setdefault((m.forecaster, m.training), []).append(m)
    return groups


def degradation(measurements: Sequence[Measurement], metric: str, title: str) -> "Figure":
    """Draw the errors of a forecaster by the level of each perturbation.

    Lines are means over seeds, with bands from the smallest to the largest value. Each perturbation has its own colour,
    and each training has its own line style.

    Args:
        measurements: measurements of one forecaster on one series at one horizon.
        metric: name of the error.
        title: what the figure shows.
    """
    from plotly.graph_objects import Figure

    traces: list[Scatter] = []
    ends: list[float] = []
    trainings = list(dict.fromkeys(m.training for m in measurements))
    perturbations = [name for name in dict.fromkeys(m.perturbation for m in measurements) if name != NONE]
    for number, perturbation in enumerate(perturbations):
        for training in trainings:
            errors = _errors(measurements, perturbation, training, metric)
            if len(errors) > 1:
                name = f"{perturbation}, {training}" if len(trainings) > 1 else perturbation
                traces += _error_traces(html.escape(name), DASHES[training], number, errors)
                ends += [end for values in errors.values() for end in (min(values), max(values))]
    figure = Figure(traces)
    style(figure, "level of the perturbation", ERRORS[metric], title=title, height=330)
    figure.update_yaxes(range=data_range(ends, ends))
    return figure


def _errors(
    measurements: Sequence[Measurement], perturbation: str, training: Training, metric: str
) -> dict[float, list[float]]:
    """Return the errors of all seeds by level. Level 0 means no perturbation."""
    own = [m for m in measurements if m.training == training and m.perturbation in (NONE, perturbation)]
    levels = sorted({m.level for m in own})
    return {level: [getattr(m, metric) for m in own if m.level == level] for level in levels}


def _error_traces(name: str, dash: str, number: int, errors: Mapping[float, Sequence[float]]) -> Iterator["Scatter"]:
    """Yield the band and the line of a model, from its errors by level."""
    from plotly.graph_objects import Scatter

    levels = list(errors)
    colour = COLOURS[number % len(COLOURS)]
    yield Scatter(
        x=[*levels, *reversed(levels)],
        y=[*map(max, errors.values()), *reversed([*map(min, errors.values())])],
        mode="lines",
        fill="toself",
        fillcolor=_transparent(colour),
        line={"width": 0},
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
    )
    yield Scatter(
        x=levels,
        y=[float(np.mean(values)) for values in errors.values()],
        mode="lines+markers",
        name=name,
        legendgroup=name,
        line={"color": colour, "dash": dash, "width": 2},
        marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 7},
        hovertemplate=f"{name}<br>level %{{x:g}}: %{{y:.4f}}<extra></extra>",
    )


def seeds(measurements: Sequence[Measurement], metric: str, title: str) -> "Figure":
    """Draw each model's unperturbed errors relative to their mean over seeds, with one point for each seed.

    Args:
        measurements: measurements of one series at one horizon.
        metric: name of the error.
        title: what the figure shows.
    """
    from plotly.graph_objects import Figure, Scatter

    models = _by_model([m for m in measurements if m.perturbation == NONE])
    figure = Figure()
    drawn: list[float] = []
    for number, group in enumerate(models.values()):
        errors = [getattr(m, metric) for m in group]
        mean = float(np.mean(errors)) or 1.0
        shares = [100 * (error / mean - 1) for error in errors]
        drawn += shares
        marker = {"color": COLOURS[number % len(COLOURS)], "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9}
        figure.add_trace(
            Scatter(
                x=shares,
                y=[number] * len(group),
                mode="markers",
                marker={**marker, "opacity": 0.7},
                customdata=[[m.seed, error] for m, error in zip(group, errors, strict=True)],
                hovertemplate="seed %{customdata[0]}: %{customdata[1]:.4f} (%{x:+.2f} %)<extra></extra>",
                showlegend=False,
            )
        )
    style(figure, "% from the mean over seeds", "", title=title, height=110 + 42 * len(models))
    figure.update_xaxes(range=data_range(drawn, drawn))
    names = [html.escape(f"{forecaster_name(name)}, {training}").replace(", ", "<br>") for name, training in models]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])
    figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    return figure


def forecasts(points: Sequence[ForecastRow], forecaster: str, channel: str, title: str) -> "Figure":
    """Draw the forecasts of one window with all seeds, together with the truth, in one panel for each training.

    The history before the forecast is shown over the same number of steps as the forecast.

    Args:
        points: forecasts of one series at one horizon.
        forecaster: name of the forecaster.
        channel: column of the series.
        title: what the figure shows.
    """
    from plotly.subplots import make_subplots

    points = [p for p in points if (p.forecaster, p.channel) == (forecaster, channel)]
    horizon = max(p.step for p in points)
    points = [p for p in points if p.step > -horizon]
    trainings = list(dict.fromkeys(p.training for p in points))
    panels = [f"{training} training" for training in trainings] if len(trainings) > 1 else None
    spacing = 0.2 / len(trainings)
    figure = make_subplots(
        rows=len(trainings), cols=1, shared_xaxes=True, vertical_spacing=spacing, subplot_titles=panels
    )
    for row, training in enumerate(trainings, start=1):
        lines = _window_lines([p for p in points if p.training == training], is_first=row == 1)
        figure.add_traces(list(lines), rows=row, cols=1)
    style(figure, "", html.escape(f"{channel}, unit of the series"), title=title, height=100 + 180 * len(trainings))
    figure.update_layout(margin={"t": 30 if panels else 20}, showlegend=True)
    figure.update_annotations(font={"size": 13})
    figure.update_xaxes(title_text="steps after the window", row=len(trainings), col=1)
    for row in range(1, len(trainings) + 1):
        # Axis titles of neighbouring panels would overlap, so only the middle panel has one.
        if row != (len(trainings) + 1) // 2:
            figure.update_yaxes(title_text=None, row=row, col=1)
    return figure


def _window_lines(points: Sequence[ForecastRow], *, is_first: bool) -> Iterator["Scatter"]:
    """Yield the lines of a panel: the truth, and the forecast of each seed; the first panel has the legend."""
    by_seed: dict[int, list[ForecastRow]] = {}
    for p in points:
        by_seed.setdefault(p.seed, []).append(p)
    truth = next(iter(by_seed.values()))
    ink = {"color": INK, "width": 2}
    yield _line("truth", {p.step: p.truth for p in truth}, ink, is_first=is_first)
    for number, (seed, group) in enumerate(by_seed.items()):
        dash = ("solid", "dot", "dash")[number // len(COLOURS) % 3]
        line = {"color": COLOURS[number % len(COLOURS)], "dash": dash, "width": 1.2}
        yield _line(f"seed {seed}", {p.step: p.value for p in group if p.value is not None}, line, is_first=is_first)


def _line(name: str, values: Mapping[int, float], line: Mapping[str, object], *, is_first: bool) -> "Scatter":
    from plotly.graph_objects import Scatter

    shown = {"name": name, "legendgroup": name, "showlegend": is_first}
    # Rounding keeps pages of many seeds and long horizons small.
    heights = [float(f"{value:.5g}") for value in values.values()]
    return Scatter(x=list(values), y=heights, mode="lines", line=dict(line), **shown)


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"
