"""Figures of the hallucination report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stratoscope.results import COLOURS, style
from stratoscope.tables.hallucination import HallucinationScoreRow, SeparationRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def propensity(rows: Sequence[HallucinationScoreRow], title: str) -> "Figure":
    """Draw EAVSS by layer with its intervals over the band of the null hypothesis; flagged layers are filled."""
    from plotly.graph_objects import Figure, Scatter

    layers = [row.layer for row in rows]
    traces = []
    if rows[0].null_band is not None:
        band = np.array([row.null_band for row in rows])
        traces.append(
            Scatter(
                x=[*layers, *layers[::-1]],
                y=[*band, *-band[::-1]],
                fill="toself",
                fillcolor="#e8edf1",
                line={"width": 0},
                hoverinfo="skip",
                name="chance",
            )
        )
    values = np.array([row.eavss for row in rows])
    error = None
    if rows[0].ci_low is not None:
        low, high = (np.array([getattr(row, name) for row in rows]) for name in ("ci_low", "ci_high"))
        error = {
            "type": "data",
            "symmetric": False,
            "array": high - values,
            "arrayminus": values - low,
            "color": "#5b6875",
            "thickness": 1,
        }
    traces.append(
        Scatter(
            x=layers,
            y=values,
            mode="markers",
            name="EAVSS",
            marker={
                "size": 9,
                "color": [COLOURS[1] if row.flagged else "#ffffff" for row in rows],
                "line": {"color": COLOURS[1], "width": 1.5},
            },
            error_y=error,
            customdata=[[row.propensity, row.p_value_length_adjusted] for row in rows],
            hovertemplate="layer %{x}<br>EAVSS %{y:.4f}<br>propensity %{customdata[0]:.2f}<br>"
            "p, length-adjusted %{customdata[1]:.4f}<extra></extra>",
        )
    )
    figure = Figure(traces)
    figure.update_layout(showlegend=False)
    style(figure, "layer", title, by_layer=True)
    figure.add_hline(y=0, line={"color": "#b8c4cf", "width": 1})
    return figure


def heat_map(rows: Sequence[HallucinationScoreRow], tap: str) -> "Figure":
    """Draw the signed propensity of each data set and layer; a point marks a flagged layer."""
    from plotly.graph_objects import Figure, Heatmap, Scatter

    datasets = list(dict.fromkeys(row.dataset for row in rows))
    signs = {"more": 1.0, "less": -1.0, "none": 0.0}
    z = [[row.propensity * signs[row.direction] for row in rows if row.dataset == name] for name in datasets]
    flagged = [row for row in rows if row.flagged]
    figure = Figure(
        [
            Heatmap(
                z=z,
                y=datasets,
                x=list(range(len(z[0]))),
                zmid=0,
                colorscale=[[0, COLOURS[0]], [0.5, "#ffffff"], [1, COLOURS[1]]],
                colorbar={"title": "propensity"},
                hovertemplate="%{y}<br>layer %{x}: %{z:.2f}<extra></extra>",
                xgap=1,
                ygap=2,
            ),
            Scatter(
                x=[row.layer for row in flagged],
                y=[row.dataset for row in flagged],
                mode="markers",
                marker={"color": "#1d2733", "size": 6},
                hoverinfo="skip",
            ),
        ]
    )
    figure.update_layout(showlegend=False)
    style(figure, "layer", tap, height=130 + 40 * len(datasets))
    figure.update_xaxes(dtick=max(1, 5 * round(len(z[0]) / 50)))
    return figure


def separation(rows: Sequence[SeparationRow], random: Sequence[float], title: str) -> "Figure":
    """Draw the AUROC of each layer and of sets of layers, beside the distribution of random sets."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, column_widths=[0.7, 0.3], shared_yaxes=True, horizontal_spacing=0.03)
    single = [row for row in rows if row.features == "layer"]
    figure.add_scatter(
        x=[row.layer for row in single],
        y=[row.auroc for row in single],
        mode="markers",
        marker={"color": "#8a97a3", "size": 7},
        error_y={
            "type": "data",
            "array": [row.ci_high - row.auroc for row in single],
            "color": "#c6d0d9",
            "thickness": 1,
        },
        name="one layer",
        row=1,
        col=1,
    )
    # If nothing is flagged, random sets without layers all lie at one half.
    spread = random if len(set(random)) > 1 else []
    figure.add_histogram(y=spread, marker={"color": "#c6d0d9"}, name="random sets", nbinsy=20, row=1, col=2)
    names = ("flagged", "all", "avss", "answer_length", "likelihood")
    drawn = [row.auroc for row in rows if row.features in ("layer", *names)]
    for colour, name in zip(COLOURS[1:], names, strict=False):
        row = next(r for r in rows if r.features == name)
        figure.add_hline(
            y=row.auroc, line={"color": colour, "width": 1.5, "dash": "solid" if name == "flagged" else "dot"}
        )
        figure.add_scatter(
            x=[None], y=[None], mode="lines", line={"color": colour}, name=name.replace("_", " "), row=1, col=1
        )
    style(figure, "layer", title, height=360)
    figure.update_xaxes(title="random sets", row=1, col=2)
    low, high = min([*drawn, *spread]), max([*drawn, *spread])
    figure.update_yaxes(range=[low - 0.04, high + 0.02])
    figure.update_yaxes(title="", row=1, col=2)
    return figure
