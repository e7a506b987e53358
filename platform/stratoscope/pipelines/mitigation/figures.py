"""The pictures of the mitigation report."""

from typing import TYPE_CHECKING, Any

from stratoscope.mitigation import TERMS
from stratoscope.pipelines.mitigation.tables import NOT_HEALED
from stratoscope.results import COLOURS, SYMBOLS, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Row = dict[str, Any]


def changes(rows: list[Row], metric: str, *, retention: bool) -> "Figure":
    """Draw what a metric came to on each data set, a point for each variant and seed."""
    from plotly.graph_objects import Figure, Scatter

    names = ("retention", "retention_low", "retention_high") if retention else ("difference", "ci_low", "ci_high")
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    # What is dropped and not healed has the colour of what is healed, and an open symbol.
    variants = list(dict.fromkeys(row["variant"].removesuffix(NOT_HEALED) for row in rows))
    models = list(dict.fromkeys((row["variant"], row["seed"]) for row in rows))
    traces = []
    for number, (variant, seed) in enumerate(models):
        own = [row for row in rows if (row["variant"], row["seed"]) == (variant, seed)]
        value, low, high = ([row[name] for row in own] for name in names)
        shift = 0.8 * ((number + 0.5) / len(models) - 0.5)
        kind = variants.index(variant.removesuffix(NOT_HEALED))
        traces.append(
            Scatter(
                x=value,
                y=[datasets.index(row["dataset"]) + shift for row in own],
                mode="markers",
                name=variant,
                legendgroup=variant,
                showlegend=all(earlier != variant for earlier, _ in models[:number]),
                marker=_marker(kind, open_=variant.endswith(NOT_HEALED)),
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [h - v for h, v in zip(high, value, strict=True)],
                    "arrayminus": [v - w for v, w in zip(value, low, strict=True)],
                    "thickness": 1,
                },
                customdata=[[row["dataset"], seed, row["before"], row["after"]] for row in own],
                hovertemplate=f"{variant}, seed %{{customdata[1]}}<br>%{{customdata[0]}}: %{{customdata[2]:.3f}} to "
                "%{customdata[3]:.3f}<extra></extra>",
            )
        )
    figure = Figure(traces)
    what = f"{metric}: after / before" if retention else f"{metric}: after less before"
    style(figure, what, "", height=170 + max(60, 13 * len(models)) * len(datasets))
    figure.update_layout(legend={"orientation": "v", "y": 1, "x": 1.02})
    figure.update_yaxes(tickvals=list(range(len(datasets))), ticktext=datasets, zeroline=False)
    figure.update_yaxes(range=[len(datasets) - 0.4, -0.6])
    figure.add_vline(x=1 if retention else 0, line={"color": "#5b6875", "dash": "dot"})
    return figure


def _marker(kind: int, *, open_: bool) -> dict[str, object]:
    symbol = SYMBOLS[kind % len(SYMBOLS)] + ("-open" if open_ else "")
    return {"color": COLOURS[kind % len(COLOURS)], "symbol": symbol, "size": 9}


def separation(rows: list[Row], dataset: str) -> "Figure":
    """Draw how much closer a question's end is to right answers than to wrong ones, by layer, a line for each model."""
    from plotly.graph_objects import Figure, Scatter

    own = [row for row in rows if row["dataset"] == dataset]
    variants = list(dict.fromkeys(row["variant"] for row in own))
    models = list(dict.fromkeys((row["variant"], row["seed"]) for row in own))
    traces = []
    for number, (variant, seed) in enumerate(models):
        line = [row for row in own if (row["variant"], row["seed"]) == (variant, seed)]
        kind = variants.index(variant)
        traces.append(
            Scatter(
                x=[row["layer"] for row in line],
                y=[row["gap"] for row in line],
                mode="lines+markers",
                name=variant,
                legendgroup=variant,
                showlegend=all(earlier != variant for earlier, _ in models[:number]),
                line={"color": COLOURS[kind % len(COLOURS)], "width": 1.5},
                marker={"symbol": SYMBOLS[kind % len(SYMBOLS)], "size": 5},
                customdata=[[row["closer"], seed] for row in line],
                hovertemplate=f"{variant}, seed %{{customdata[1]}}<br>layer %{{x}}: gap %{{y:.3f}}, closer in "
                "%{customdata[0]:.1%} of pairs<extra></extra>",
            )
        )
    figure = Figure(traces)
    style(figure, f"{dataset}: layer", "cosine, right less wrong", height=330)
    return figure


def training(rows: list[Row]) -> "Figure":
    """Draw the loss and its terms by step, one below the other."""
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    terms = ["loss", *(term for term in TERMS if any(row[term] is not None for row in rows))]
    figure = make_subplots(rows=len(terms), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    models = list(dict.fromkeys((row["variant"], row["seed"]) for row in rows))
    for number, (variant, seed) in enumerate(models):
        own = [row for row in rows if (row["variant"], row["seed"]) == (variant, seed)]
        for place, term in enumerate(terms, start=1):
            figure.add_trace(
                Scatter(
                    x=[row["step"] for row in own],
                    y=[row[term] for row in own],
                    mode="lines",
                    name=variant,
                    legendgroup=variant,
                    showlegend=place == 1 and all(earlier != variant for earlier, _ in models[:number]),
                    line={"color": COLOURS[variants.index(variant) % len(COLOURS)], "width": 1.5},
                    hovertemplate=f"{variant}, seed {seed}, step %{{x}}<br>{term} %{{y:.4f}}<extra></extra>",
                ),
                row=place,
                col=1,
            )
            figure.update_yaxes(title=term, row=place, col=1)
    style(figure, "", "", height=120 + 150 * len(terms))
    for place, term in enumerate(terms, start=1):
        figure.update_yaxes(title=term, row=place, col=1)
    figure.update_xaxes(title="step", row=len(terms), col=1)
    return figure
