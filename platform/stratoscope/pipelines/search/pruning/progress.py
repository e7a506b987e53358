"""The section of a report that shows how a search progressed: the best objective after each evaluated set."""

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from stratoscope.results import COLOURS, PageSection, integer_step, style
from stratoscope.tables.pruning import PruningTrialRow

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LEAST_SETS = 3
"""Minimum number of different sets of a size for a curve."""


def progress_section(trials: Sequence[PruningTrialRow], objective: str, model: str) -> Iterator[PageSection]:
    """Yield the section if a search evaluated several sets of one size.

    Args:
        trials: all trials in order.
        objective: name of the objective.
        model: name of the model.
    """
    curves = best_by_size(trials)
    if not curves:
        return
    figure = _figure(curves, f"best {objective.replace('_', ' ')} so far", model)
    yield PageSection(
        "Progress of the search",
        [
            "The best objective after each different set that was evaluated, by the number of dropped layers, on the "
            "items that most sets were evaluated on. A line that is still rising at its end asks for a larger budget "
            "(search.num_samples). Held-out items play no part."
        ],
        [figure],
    )


def best_by_size(trials: Sequence[PruningTrialRow]) -> dict[int, list[float]]:
    """Return the best objective after each distinct set, by the number of dropped layers.

    Only trials with the most common share of items are counted.
    """
    rows = [row for row in trials if row.objective is not None and row.best_objective is not None]
    shares = Counter(row.share_of_items for row in rows)
    usual = max(shares, key=lambda share: (shares[share], share), default=None)
    curves: dict[int, dict[tuple[int, ...], float]] = {}
    for row in rows:
        if row.share_of_items == usual and row.best_objective is not None:
            curves.setdefault(len(row.dropped_layers), {}).setdefault(tuple(row.dropped_layers), row.best_objective)
    return {size: list(best.values()) for size, best in sorted(curves.items()) if len(best) >= LEAST_SETS}


def _figure(curves: dict[int, list[float]], axis: str, model: str) -> "Figure":
    from plotly.graph_objects import Figure, Scatter

    figure = Figure(
        [
            Scatter(
                x=list(range(1, len(values) + 1)),
                y=values,
                name=f"{size} layer{'' if size == 1 else 's'} dropped",
                mode="lines",
                line={"shape": "hv", "color": COLOURS[index % len(COLOURS)], "width": 2},
                hovertemplate="after %{x} sets: %{y:.4f}<extra></extra>",
            )
            for index, (size, values) in enumerate(curves.items())
        ]
    )
    style(figure, "different sets evaluated", axis, title=f"{html.escape(model)}: progress of the search")
    figure.update_xaxes(dtick=integer_step(max(map(len, curves.values()))), rangemode="tozero")
    return figure
