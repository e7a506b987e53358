"""Figures of the hallucination report."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stratoscope.pipelines.reporting.figures import IntervalMark, interval_plot
from stratoscope.results import COLOURS, INK, MUTED, data_range, style
from stratoscope.tables.hallucination import HallucinationScoreRow, SeparationRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

CHANCE = 0.5
"""AUROC of a feature without information."""
SETS = {
    "flagged": "flagged layers",
    "random": "random layers, mean",
    "all": "all layers",
    "avss": "highest AVSS",
    "answer_length": "length of the answer",
    "likelihood": "likelihood of the answer",
}
"""Labels of sets of features in the order in which they are drawn."""


def propensity(rows: Sequence[HallucinationScoreRow], title: str) -> "Figure":
    """Draw EAVSS by layer with its intervals over the band of the null hypothesis. Flagged layers are filled points.

    Layers that cannot be read have no point.
    """
    from plotly.graph_objects import Figure, Scatter

    known = [row for row in rows if row.eavss is not None]
    layers = [row.layer for row in known]
    traces = []
    if known and known[0].null_band is not None:
        band = np.array([row.null_band for row in known])
        traces.append(
            Scatter(
                x=[*layers, *layers[::-1]],
                y=[*band, *-band[::-1]],
                mode="lines",
                fill="toself",
                fillcolor="#ebf0f8",
                line={"width": 0},
                hoverinfo="skip",
                name="what labels dealt at random reach",
            )
        )
    traces.append(_eavss(known))
    figure = Figure(traces)
    style(figure, "layer", "EAVSS, log ratio" if rows[0].definition == "eavss" else "EAVSS", title=title, by_layer=True)
    figure.update_xaxes(range=[-0.5, len(rows) - 0.5])
    figure.add_hline(y=0, line={"color": MUTED, "width": 1})
    return figure


def _eavss(rows: Sequence[HallucinationScoreRow]) -> "Scatter":
    """Return the points of the layers with their intervals; layers that are not flagged are grey."""
    from plotly.graph_objects import Scatter

    values = np.array([row.eavss for row in rows])
    error = None
    if rows and rows[0].ci_low is not None:
        low, high = (np.array([getattr(row, name) for row in rows]) for name in ("ci_low", "ci_high"))
        error = {
            "type": "data",
            "symmetric": False,
            "array": high - values,
            "arrayminus": values - low,
            "color": "#5b6875",
            "thickness": 1.5,
            "width": 3,
        }
    return Scatter(
        x=[row.layer for row in rows],
        y=values,
        mode="markers",
        name="EAVSS with its interval",
        marker={
            "size": [11 if row.flagged else 8 for row in rows],
            "color": [COLOURS[1] if row.flagged else MUTED for row in rows],
            "symbol": ["diamond" if row.flagged else "circle" for row in rows],
            "opacity": 1,
            "line": {"color": "#5b6875", "width": 1},
        },
        error_y=error,
        customdata=[[row.propensity, row.p_value_length_adjusted] for row in rows],
        hovertemplate="layer %{x}<br>EAVSS %{y:.4f}<br>propensity %{customdata[0]:.2f}<br>"
        "p, length-adjusted %{customdata[1]:.4f}<extra></extra>",
    )


def heat_map(rows: Sequence[HallucinationScoreRow], title: str) -> "Figure":
    """Draw the signed propensity of each data set, tap and layer; layers that are not flagged are grey.

    Args:
        rows: the scores that flag the layers.
        title: what the figure shows, with the model.
    """
    from plotly.graph_objects import Figure, Heatmap

    places = list(dict.fromkeys((row.dataset, row.tap) for row in rows))
    layers = list(range(1 + max(row.layer for row in rows)))
    shared = {"x": layers, "y": list(range(len(places))), "zmid": 0, "xgap": 2, "ygap": 3}
    hover = "layer %{x}: %{z:+.2f} times the mean<extra></extra>"
    largest = max(1.0, *(row.propensity for row in rows))
    grey = [[0, MUTED], [0.5, "#f1f4f7"], [1, MUTED]]
    coloured = [[0, COLOURS[0]], [0.5, "#f1f4f7"], [1, COLOURS[1]]]
    traces = [
        Heatmap(z=_signed(rows, places, flagged=False), zmin=-2 * largest, zmax=2 * largest, colorscale=grey),
        Heatmap(z=_signed(rows, places, flagged=True), zmin=-largest, zmax=largest, colorscale=coloured),
    ]
    figure = Figure(traces)
    figure.update_traces(showscale=False, hovertemplate=hover)
    figure.update_traces(shared)
    style(figure, "layer", "", title=title, height=90 + 44 * len(places), by_layer=False)
    figure.update_xaxes(dtick=max(1, 5 * round(len(layers) / 50)))
    names = [f"{html.escape(dataset)}<br>{tap}" for dataset, tap in places]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed", showgrid=False)
    return figure


def _signed(
    rows: Sequence[HallucinationScoreRow], places: Sequence[tuple[str, str]], *, flagged: bool
) -> list[list[float | None]]:
    """Return the signed propensity of each place and layer; None for layers whose flag differs from `flagged`."""
    signs = {"more": 1.0, "less": -1.0, "none": 0.0}
    return [
        [
            row.propensity * signs[row.direction] if row.flagged == flagged else None
            for row in rows
            if (row.dataset, row.tap) == place
        ]
        for place in places
    ]


def layer_aurocs(rows: Sequence[SeparationRow], title: str) -> "Figure":
    """Draw the AUROC of each single layer with its interval. Layers that do not differ from chance are grey.

    Args:
        rows: separation by single layers, of one data set and tap.
        title: what the figure shows, with the model.
    """
    from plotly.graph_objects import Figure, Scatter

    figure = Figure(
        Scatter(
            x=[row.layer for row in rows],
            y=[row.auroc for row in rows],
            mode="markers",
            marker={"color": [COLOURS[0] if _beyond_chance(row) else MUTED for row in rows], "size": 9},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [row.ci_high - row.auroc for row in rows],
                "arrayminus": [row.auroc - row.ci_low for row in rows],
                "color": "#5b6875",
                "thickness": 1.5,
                "width": 3,
            },
            hovertemplate="layer %{x}: %{y:.3f}<extra></extra>",
        )
    )
    style(figure, "layer", "AUROC", title=title, by_layer=True)
    figure.update_xaxes(range=[-0.5, max(row.layer or 0 for row in rows) + 0.5])
    figure.update_yaxes(range=data_range([0.5, *(row.ci_low for row in rows)], [0.5, *(row.ci_high for row in rows)]))
    figure.add_hline(y=0.5, line={"color": INK, "dash": "dot", "width": 1})
    return figure


def _beyond_chance(row: SeparationRow) -> bool:
    return row.ci_low > CHANCE or row.ci_high < CHANCE


def separation(rows: Sequence[SeparationRow], random: Sequence[float], title: str) -> "Figure":
    """Draw the AUROC of sets of layers and of other features with their intervals, beside that of random sets.

    Args:
        rows: separation by sets of features, of one data set and tap.
        random: AUROC of each random set.
        title: what the figure shows, with the model.
    """
    sets = [row for row in rows if row.features in SETS]
    marks = [
        IntervalMark(SETS[row.features], row.auroc, row.ci_low, row.ci_high, _beyond_chance(row))
        for row in sorted(sets, key=lambda row: list(SETS).index(row.features))
    ]
    figure = interval_plot(marks, "AUROC", title=title, form=".3f", reference=CHANCE, with_reference=True)
    position = next((index for index, mark in enumerate(marks) if mark.row == SETS["random"]), None)
    # If no layer is flagged, the random sets are empty too, and all have an AUROC of one half.
    if position is not None and len(set(random)) > 1:
        figure.add_scatter(
            x=list(random),
            y=[position - 0.3] * len(random),
            mode="markers",
            marker={"symbol": "line-ns-open", "color": "#5b6875", "size": 7},
            name="one random set",
            hovertemplate="random set: %{x:.3f}<extra></extra>",
        )
        ends = [(m.low, m.high) for m in marks]
        low, high = [CHANCE, *random, *(end[0] for end in ends)], [CHANCE, *random, *(end[1] for end in ends)]
        figure.update_xaxes(range=data_range(low, high))
    return figure
