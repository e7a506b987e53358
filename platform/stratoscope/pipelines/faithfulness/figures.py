"""The pictures of the faithfulness report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stratoscope.pipelines.faithfulness.cells import NONE
from stratoscope.pipelines.faithfulness.config import TRAININGS
from stratoscope.results import COLOURS, SYMBOLS, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Row = dict[str, Any]
DASHES = dict(zip(TRAININGS, ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot"), strict=True))


def degradation(rows: Sequence[Row], perturbation: str, metric: str) -> "Figure":
    """Draw an error by the level of a perturbation: means over seeds, with bands from the smallest to the largest."""
    from plotly.graph_objects import Figure, Scatter

    own = [r for r in rows if r["perturbation"] in (NONE, perturbation)]
    traces = []
    models = list(dict.fromkeys((r["forecaster"], r["training"]) for r in own))
    for number, (forecaster, training) in enumerate(models):
        line = [r for r in own if (r["forecaster"], r["training"]) == (forecaster, training)]
        levels = sorted({r["level"] for r in line})
        if len(levels) == 1:
            continue
        values = [[r[metric] for r in line if r["level"] == level] for level in levels]
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
    # Names of many models take more lines than there is room for above.
    figure.update_layout(legend={"y": -0.25, "yanchor": "top"}, height=360 + 24 * (len(models) // 4))
    return figure


def seeds(rows: Sequence[Row], metric: str) -> "Figure":
    """Draw each forecaster's unperturbed errors by seed as boxes, trainings beside each other, by their mean."""
    from plotly.graph_objects import Box, Figure

    clean = [r for r in rows if r["perturbation"] == NONE]
    traces = []
    for number, (forecaster, training) in enumerate(dict.fromkeys((r["forecaster"], r["training"]) for r in clean)):
        own = [r for r in clean if (r["forecaster"], r["training"]) == (forecaster, training)]
        mean = float(np.mean([r[metric] for r in own])) or 1.0
        traces.append(
            Box(
                y=[100 * (r[metric] / mean - 1) for r in own],
                name=f"{forecaster}<br>{training}",
                boxpoints="all",
                jitter=0.4,
                pointpos=0,
                marker={"color": COLOURS[number % len(COLOURS)], "size": 6},
                customdata=[[r["seed"], r[metric]] for r in own],
                hovertemplate=f"seed %{{customdata[0]}}: {metric} %{{customdata[1]:.4f}}<extra></extra>",
                showlegend=False,
            )
        )
    figure = Figure(traces)
    style(figure, "", f"{metric}, % off its mean over seeds", height=380)
    return figure


def heat(rows: Sequence[Row], metric: str) -> "Figure":
    """Draw by what share each perturbation and level raises an error, forecaster by forecaster."""
    from plotly.graph_objects import Figure, Heatmap

    columns = list(dict.fromkeys((r["perturbation"], r["level"]) for r in rows if r["perturbation"] != NONE))
    models = list(dict.fromkeys((r["forecaster"], r["training"]) for r in rows))
    values = []
    for model in models:
        own = [r for r in rows if (r["forecaster"], r["training"]) == model]
        clean = float(np.mean([r[metric] for r in own if r["perturbation"] == NONE]))
        found = [[r[metric] for r in own if (r["perturbation"], r["level"]) == column] for column in columns]
        values.append([100 * (float(np.mean(f)) / clean - 1) if f and clean else None for f in found])
    figure = Figure(
        Heatmap(
            z=values,
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


def forecasts(rows: Sequence[Row], forecaster: str, channel: str) -> "Figure":
    """Draw one window's forecasts under all seeds on top of each other, training by training, with the truth.

    Of what was before the forecast, as much is drawn as is forecast.
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    own = [r for r in rows if (r["forecaster"], r["channel"]) == (forecaster, channel)]
    horizon = max(r["step"] for r in own)
    own = [r for r in own if r["step"] > -horizon]
    trainings = list(dict.fromkeys(r["training"] for r in own))
    figure = make_subplots(
        rows=len(trainings),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.2 / len(trainings),
        subplot_titles=trainings,
    )
    for place, training in enumerate(trainings, start=1):
        of_training = [r for r in own if r["training"] == training]
        for number, seed in enumerate(dict.fromkeys(r["seed"] for r in of_training)):
            line = [r for r in of_training if r["seed"] == seed]
            if not number:
                figure.add_trace(
                    Scatter(
                        x=[r["step"] for r in line],
                        y=[r["truth"] for r in line],
                        mode="lines",
                        name="truth",
                        legendgroup="truth",
                        showlegend=place == 1,
                        line={"color": "#222222", "width": 2},
                    ),
                    row=place,
                    col=1,
                )
            ahead = [r for r in line if r["value"] is not None]
            figure.add_trace(
                Scatter(
                    x=[r["step"] for r in ahead],
                    y=[r["value"] for r in ahead],
                    mode="lines",
                    name=f"seed {seed}",
                    legendgroup=f"seed {seed}",
                    showlegend=place == 1,
                    line={
                        "color": COLOURS[number % len(COLOURS)],
                        "dash": ("solid", "dot")[number // len(COLOURS) % 2],
                        "width": 1.2,
                    },
                ),
                row=place,
                col=1,
            )
    seeds_drawn = len({r["seed"] for r in own})
    # The legend takes a line for every seven names, below Plotly's own buttons.
    top = 90 + 30 * (1 + seeds_drawn // 7)
    inside = 200 * len(trainings)
    style(figure, "", channel, height=inside + top + 50)
    figure.update_layout(margin={"t": top, "b": 50}, legend={"y": 1 + 30 / inside, "yanchor": "bottom"})
    figure.update_xaxes(title="points after the window", row=len(trainings), col=1)
    return figure


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"
