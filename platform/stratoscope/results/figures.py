"""The style that all figures of the reports share."""

import math
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart."""
INK = "#1d2733"
"""Colour of lines and marks that stand for the truth or a reference; white on a dark page."""
PAPER = "#ffffff"
"""Colour of the page behind a figure; dark on a dark page."""
MUTED = "#b8c4cf"
"""Colour of results within noise, and of lines that only connect points."""
_CORNER = {"xref": "container", "yref": "container", "x": 0, "y": 0}
_AXIS = {"ticks": "", "title": {"standoff": 15, "font": {"size": 13}}, "automargin": True, "zerolinewidth": 2}
# Plotly's own templates hold the defaults of all kinds of plots. They take 7 kB in each figure and most of its styling
# time.
_TEMPLATE = {
    "layout": {
        "autotypenumbers": "strict",
        "colorway": COLOURS,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    },
    "data": {"heatmap": [{"colorbar": {"outlinewidth": 0, "ticks": ""}}]},
}
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x")


def style(
    figure: "Figure",
    x: str,
    y: str,
    *,
    title: str = "",
    height: int = 340,
    logarithmic: bool = False,
    by_layer: bool = False,
) -> None:
    """Apply the shared style to a figure, in place.

    The legend is below the plot; the page adds its height, which depends on the width of the screen.

    Args:
        figure: the figure to style.
        x: title of the horizontal axis, with its unit.
        y: title of the vertical axis, with its unit.
        title: what the figure shows, with the model or forecaster.
        height: height in pixels, without the legend.
        logarithmic: whether the vertical axis is logarithmic.
        by_layer: whether the horizontal axis counts layers.
    """
    # Otherwise Plotly writes 0.0003 as 300µ.
    axis = {"automargin": True, "exponentformat": "power"}
    figure.layout.template = _TEMPLATE
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 16, "t": 20, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        legend={"orientation": "h", "yanchor": "bottom", "xanchor": "left"} | _CORNER,
        # The page shows it above the figure, where a long title wraps on a narrow screen.
        meta={"title": title},
    )
    steps = {"dtick": max(1, 5 * round(max(len(trace.x) for trace in figure.data) / 50))} if by_layer else {}
    figure.update_xaxes(axis | {"title": {"text": x}, "zeroline": False} | steps)
    decades = {"type": "log", "dtick": 1} if logarithmic else {}
    figure.update_yaxes(axis | {"title": {"text": y}} | decades)


def data_range(low: Sequence[float], high: Sequence[float], *, margin: float = 0.05) -> list[float]:
    """Return the range of an axis that fits values or intervals.

    Args:
        low: values, or lower ends of intervals; NaN and infinity are ignored.
        high: values, or upper ends, of any length.
        margin: share of the range that is added at either end.

    Returns:
        Lower and upper end; a range of one value is widened, so that it is not empty.
    """
    least = min(value for value in low if math.isfinite(value))
    most = max(value for value in high if math.isfinite(value))
    pad = margin * (most - least) or margin * abs(most) or 1.0
    return [least - pad, most + pad]


def integer_step(span: float, most: int = 10) -> int:
    """Return the distance of ticks on an axis of whole numbers: 1, 2 or 5 times a power of ten.

    Args:
        span: difference of the greatest and the least number.
        most: largest number of steps that the range may have.
    """
    step, factors = 1, cycle((2, 2.5, 2))
    while span / step > most:
        step = int(step * next(factors))
    return step
