"""Figures of the score report."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stratoscope.pipelines.score.read_scores import ScoredLayers
from stratoscope.results import COLOURS, MUTED, PAPER, SYMBOLS, data_range, style
from stratoscope.scoring import num_dropped
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import FIRST_REGULAR, NUM_REGULAR, OVERFLOW, lower_edges

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

AXES = {
    "avss": "variance / sparsity",
    "variance": "variance of activations",
    "sparsity": "share under epsilon",
    "block_influence": "1 - cosine",
    "angular_distance": "angle / π",
    "magnitude": "norm of weights",
}
"""Titles of axes, with units, by metric."""
LEAST_RATIO = 30.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""


def scores(scoring: ScoredLayers, ratio: float, title: str) -> "Figure":
    """Draw a score by layer with its intervals.

    The lowest layers are coloured, and all others are grey. A point is not filled if its layer is one of the lowest and
    its interval overlaps that of a layer that is not.

    Args:
        scoring: the scoring.
        ratio: share of the layers that count as the lowest.
        title: what the figure shows, with the model.
    """
    from plotly.graph_objects import Figure, Scatter

    layers = np.arange(len(scoring.score))
    count = num_dropped(ratio, len(layers))
    overlapping = scoring.overlapping(count)
    lines = [COLOURS[0] if rank < count else MUTED for rank in scoring.rank]
    fills = [PAPER if layer in overlapping else line for layer, line in zip(layers, lines, strict=True)]
    error = {
        "type": "data",
        "symmetric": False,
        "array": scoring.high - scoring.score,
        "arrayminus": scoring.score - scoring.low,
        "color": "#5b6875",
        "thickness": 1.5,
        "width": 3,
    }
    figure = Figure(
        Scatter(
            x=layers,
            y=scoring.score,
            mode="lines+markers",
            line={"color": MUTED, "width": 1},
            marker={"size": 10, "color": fills, "line": {"color": lines, "width": 2}},
            error_y=error,
            customdata=scoring.rank,
            hovertemplate="layer %{x}<br>%{y:.4g}<br>rank %{customdata}<extra></extra>",
        )
    )
    _style_values(figure, [scoring.score, scoring.low, scoring.high], AXES.get(scoring.scoring.metric, "score"), title)
    return figure


def _style_values(figure: "Figure", values: Sequence[NDArray[np.float64]], axis: str, title: str) -> None:
    """Style a figure of values by layer. The axis fits the values and is logarithmic if they differ a lot."""
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    logarithmic = bool(len(finite) and finite.min() > 0 and finite.max() / finite.min() > LEAST_RATIO)
    style(figure, "layer", html.escape(axis), title=title, height=320, logarithmic=logarithmic, by_layer=True)
    if len(finite):
        ends = (np.log10(finite) if logarithmic else finite).tolist()
        figure.update_yaxes(range=data_range(ends, ends))


def lowest_map(scorings: Sequence[ScoredLayers], ratio: float, title: str) -> "Figure":
    """Draw the lowest layers of each scoring as a map with scorings as rows and layers as columns.

    Args:
        scorings: the scorings, one for each row.
        ratio: share of the layers that count as the lowest.
        title: what the figure shows, with the model.
    """
    from plotly.graph_objects import Figure, Heatmap

    num_layers = len(scorings[0].rank)
    ranks = np.array([scoring.rank for scoring in scorings])
    shade = np.where(ranks < num_dropped(ratio, num_layers), 1.0, 0.0) + 0.001 * (num_layers - ranks)
    figure = Figure(
        Heatmap(
            z=shade,
            y=list(range(len(scorings))),
            x=list(range(num_layers)),
            customdata=ranks,
            hovertemplate="layer %{x}: rank %{customdata}<extra></extra>",
            colorscale=[[0, "#f1f4f7"], [0.4, "#dce5ec"], [0.5, COLOURS[0]], [1, COLOURS[0]]],
            showscale=False,
            xgap=2,
            ygap=4,
        )
    )
    style(figure, "layer", "", title=title, height=90 + 40 * len(scorings), by_layer=True)
    names = ["<br>".join(html.escape(scoring.label).split(", ", 1)) for scoring in scorings]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, tickfont={"size": 11}, autorange="reversed")
    return figure


def by_layer(series: dict[str, NDArray[np.float64]], axis: str, title: str) -> "Figure":
    """Draw values by layer, with one line for each name.

    Args:
        series: values of all layers by name.
        axis: title of the vertical axis, with its unit.
        title: what the figure shows, with the model.
    """
    from plotly.graph_objects import Figure, Scatter

    figure = Figure(
        [
            Scatter(
                x=np.arange(len(values)),
                y=values,
                name=name,
                mode="lines+markers",
                line={"color": COLOURS[i % len(COLOURS)]},
                marker={"symbol": SYMBOLS[i % len(SYMBOLS)]},
                hovertemplate=f"{name}<br>layer %{{x}}: %{{y:.4g}}<extra></extra>",
            )
            for i, (name, values) in enumerate(series.items())
        ]
    )
    figure.update_layout(showlegend=len(series) > 1)
    _style_values(figure, list(series.values()), axis, title)
    return figure


def magnitudes(statistics: Statistics, title: str) -> "Figure":
    """Draw the distribution of activation magnitudes, with one column for each layer.

    Args:
        statistics: statistics of one tap, merged over prompts.
        title: what the figure shows, with the model and the tap.
    """
    from plotly.graph_objects import Figure, Heatmap

    regular = statistics.histogram[:, FIRST_REGULAR:OVERFLOW]
    share = regular / np.maximum(statistics.count[:, None], 1)
    filled = np.flatnonzero(share.max(axis=0) > 1e-6)
    bins = slice(filled.min(), filled.max() + 1) if len(filled) else slice(0, NUM_REGULAR)
    exponents = np.log2(lower_edges()[FIRST_REGULAR:OVERFLOW])[bins]
    figure = Figure(
        Heatmap(
            z=share[:, bins].T,
            x=np.arange(len(share)),
            y=exponents,
            colorscale="Cividis",
            colorbar={"title": "share"},
            hovertemplate="layer %{x}<br>2^%{y:.2f}<br>share %{z:.4f}<extra></extra>",
        )
    )
    style(figure, "layer", "log2 |activation|", title=title, height=420, by_layer=True)
    return figure
