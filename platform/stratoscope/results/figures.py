"""The style that all figures of the reports share."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart."""
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x")


def style(
    figure: "Figure", x: str, y: str, *, height: int = 340, logarithmic: bool = False, by_layer: bool = False
) -> None:
    """Apply the shared style to a figure, in place.

    Args:
        figure: the figure to style.
        x: title of the horizontal axis.
        y: title of the vertical axis.
        height: height in pixels.
        logarithmic: whether the vertical axis is logarithmic.
        by_layer: whether the horizontal axis counts layers.
    """
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 80, "r": 20, "t": 20, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.08},
    )
    figure.update_xaxes(title=x)
    if by_layer:
        num_layers = max(len(trace.x) for trace in figure.data)
        figure.update_xaxes(dtick=max(1, 5 * round(num_layers / 50)))
    figure.update_yaxes(title=y, type="log" if logarithmic else None, automargin=True)
    if logarithmic:
        figure.update_yaxes(exponentformat="power", dtick=1)
