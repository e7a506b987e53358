"""Figures of the faithfulness report."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stratoscope.forecasting import NONE, TRAININGS, Measurement, Training
from stratoscope.results import COLOURS, SYMBOLS, style
from stratoscope.tables.faithfulness import ForecastRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DASHES = dict(zip(TRAININGS, ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot"), strict=True))


def _by_model(measurements: Sequence[Measurement]) -> dict[tuple[str, Training], list[Measurement]]:
    groups: dict[tuple[str, Training], list[Measurement]] = {}
    for m in measurements:
        groups.setdefault((m.forecaster, m.training), []).append(m)
    return groups


def degradation(measurements: Sequence[Measurement], perturbation: str, metric: str) -> "Figure":
    """Draw an error by the level of a perturbation: means over seeds, with bands from the smallest to the largest."""
    from plotly.graph_objects import Figure, Scatter

    traces = []
    models = _by_model([m for m in measurements if m.perturbation in (NONE, perturbation)])
    for number, ((forecaster, training), group) in enumerate(models.items()):
        levels = sorted({m.level for m in group})
        if len(levels) == 1:
            continue
        values = [[getattr(m, metric) for m in group if m.level == level] for level in levels]
        colour = COLOURS[number % len(COLOURS)]
        name = f"{forecaster}, {training}"
        low, high = [min(v) for v in values], [max(v) for v in values]
        traces.append(
            Scatter(
                x=[*levels, *reversed(levels)],
                y=[*high, *reversed(low)],
                mode="lines",
                fill="toself",
                fillcolor=_transparent(colour),
                line={"width": 0},
                legendgroup=name,
                showlegend=False,
                hoverinfo="skip",
            )
        )
        traces.append(
            Scatter(
                x=levels,
                y=[float(np.mean(v)) for v in values],
                mode="lines+markers",
                name=name,
                legendgroup=name,
                line={"color": colour, "dash": DASHES[training], "width": 2},
                marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 7},
                hovertemplate=f"{name}<br>level %{{x:g}}: {metric} %{{y:.4f}}<extra></extra>",
            )
        )
    figure = Figure(traces)
    style(figure, f"level of {perturbation}", metric, height=360)
    # The legend of many models takes more lines than there is room for above the plot.
    figure.update_layout(legend={"y": -0.25, "yanchor": "top"}, height=360 + 24 * (len(models) // 4))
    return figure


def seeds(measurements: Sequence[Measurement], metric: str) -> "Figure":
    """Draw boxes of each model's unperturbed errors over seeds, relative to their mean."""
    from plotly.graph_objects import Box, Figure

    traces = []
    models = _by_model([m for m in measurements if m.perturbation == NONE])
    for number, ((forecaster, training), group) in enumerate(models.items()):
        errors = [getattr(m, metric) for m in group]
        mean = float(np.mean(errors)) or 1.0
        traces.append(
            Box(
                y=[100 * (error / mean - 1) for error in errors],
                name=f"{forecaster}<br>{training}",
                boxpoints="all",
                jitter=0.4,
                pointpos=0,
                marker={"color": COLOURS[number % len(COLOURS)], "size": 6},
                customdata=[[m.seed, error] for m, error in zip(group, errors, strict=True)],
                hovertemplate=f"seed %{{customdata[0]}}: {metric} %{{customdata[1]:.4f}}<extra></extra>",
                showlegend=False,
            )
        )
    figure = Figure(traces)
    style(figure, "", f"{metric}, % off its mean over seeds", height=380)
    return figure


def heat(measurements: Sequence[Measurement], metric: str) -> "Figure":
    """Draw the relative growth of an error under each perturbation and level, by model."""
    from plotly.graph_objects import Figure, Heatmap

    columns = list(dict.fromkeys((m.perturbation, m.level) for m in measurements if m.perturbation != NONE))
    models = _by_model(measurements)
    figure = Figure(
        Heatmap(
            z=[list(_growth(group, columns, metric)) for group in models.values()],
            x=[f"{name} {level:g}" for name, level in columns],
            y=[", ".join(model) for model in models],
            colorscale="Blues",
            zmin=0,
            texttemplate="%{z:+.1f}",
            hovertemplate="%{y}<br>%{x}: %{z:+.2f} %<extra></extra>",
            colorbar={"title": "%"},
        )
    )
    style(figure, "", "", height=180 + 45 * len(models))
    figure.update_layout(margin={"t": 40})
    figure.update_yaxes(autorange="reversed")
    return figure


def _growth(
    measurements: Sequence[Measurement], columns: Sequence[tuple[str, float]], metric: str
) -> Iterator[float | None]:
    """Yield the growth of an error under each perturbation and level, in percent."""
    clean = float(np.mean([getattr(m, metric) for m in measurements if m.perturbation == NONE]))
    for column in columns:
        errors = [getattr(m, metric) for m in measurements if (m.perturbation, m.level) == column]
        yield 100 * (float(np.mean(errors)) / clean - 1) if errors and clean else None


def forecasts(points: Sequence[ForecastRow], forecaster: str, channel: str) -> "Figure":
    """Draw the forecasts of one window under all seeds with the truth, a panel for each training.

    The part before the forecast is as long as the forecast.
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    points = [p for p in points if (p.forecaster, p.channel) == (forecaster, channel)]
    horizon = max(p.step for p in points)
    points = [p for p in points if p.step > -horizon]
    trainings = list(dict.fromkeys(p.training for p in points))
    figure = make_subplots(
        rows=len(trainings),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.2 / len(trainings),
        subplot_titles=trainings,
    )

    def add_line(row: int, name: str, steps: list[int], values: list[float], line: dict[str, object]) -> None:
        shown = {"name": name, "legendgroup": name, "showlegend": row == 1}
        figure.add_trace(Scatter(x=steps, y=values, mode="lines", line=line, **shown), row=row, col=1)

    for row, training in enumerate(trainings, start=1):
        by_seed: dict[int, list[ForecastRow]] = {}
        for p in points:
            if p.training == training:
                by_seed.setdefault(p.seed, []).append(p)
        truth = next(iter(by_seed.values()))
        add_line(row, "truth", [p.step for p in truth], [p.truth for p in truth], {"color": "#222222", "width": 2})
        for number, (seed, group) in enumerate(by_seed.items()):
            dash = ("solid", "dot")[number // len(COLOURS) % 2]
            line = {"color": COLOURS[number % len(COLOURS)], "dash": dash, "width": 1.2}
            ahead = [(p.step, p.value) for p in group if p.value is not None]
            add_line(row, f"seed {seed}", [step for step, _ in ahead], [value for _, value in ahead], line)
    # The legend takes a line for every seven names, below Plotly's own buttons.
    top = 90 + 30 * (1 + len({p.seed for p in points}) // 7)
    inside = 200 * len(trainings)
    style(figure, "", channel, height=inside + top + 50)
    figure.update_layout(margin={"t": top, "b": 50}, legend={"y": 1 + 30 / inside, "yanchor": "bottom"})
    figure.update_xaxes(title="points after the window", row=len(trainings), col=1)
    return figure


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"
