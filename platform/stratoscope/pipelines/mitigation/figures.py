"""The figures of the mitigation report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stratoscope.mitigation import TERMS
from stratoscope.results import COLOURS, SYMBOLS, style
from stratoscope.tables.mitigation import (
    NOT_RECOVERED,
    LayerSeparationRow,
    TrainingStepRow,
    VariantEvaluationRow,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FigureRow = TypeVar("FigureRow", TrainingStepRow, VariantEvaluationRow, LayerSeparationRow)


@dataclass(frozen=True)
class _Series(Generic[FigureRow]):
    """The rows of one model, with its style."""

    number: int
    variant: str
    seed: int | None
    rows: list[FigureRow]
    labels: dict[str, Any]
    """Name and legend entry of its traces; seeds of a variant share one."""
    colour: str
    symbol: str


def _series(rows: Sequence[FigureRow]) -> Iterator[_Series[FigureRow]]:
    """Group rows by model. A pruned model before training has the colour of its variant, and an open symbol."""
    variants = list(dict.fromkeys(row.variant.removesuffix(NOT_RECOVERED) for row in rows))
    models = list(dict.fromkeys((row.variant, row.seed) for row in rows))
    for number, (variant, seed) in enumerate(models):
        kind = variants.index(variant.removesuffix(NOT_RECOVERED))
        first = all(earlier != variant for earlier, _ in models[:number])
        yield _Series(
            number,
            variant,
            seed,
            [row for row in rows if (row.variant, row.seed) == (variant, seed)],
            {"name": variant, "legendgroup": variant, "showlegend": first},
            COLOURS[kind % len(COLOURS)],
            SYMBOLS[kind % len(SYMBOLS)] + ("-open" if variant.endswith(NOT_RECOVERED) else ""),
        )


def changes(rows: Sequence[VariantEvaluationRow], metric: str, *, retention: bool) -> "Figure":
    """Draw the change of a metric on each data set, a point for each variant and seed."""
    from plotly.graph_objects import Figure, Scatter

    datasets = list(dict.fromkeys(row.dataset for row in rows))
    series = list(_series(rows))
    figure = Figure()
    for model in series:
        shift = 0.8 * ((model.number + 0.5) / len(series) - 0.5)
        points = [(row, *_interval(row, retention=retention)) for row in model.rows]
        defined = [(row, value, low, high) for row, value, low, high in points if value is not None]
        figure.add_trace(
            Scatter(
                x=[value for _, value, _, _ in defined],
                y=[datasets.index(row.dataset) + shift for row, *_ in defined],
                mode="markers",
                **model.labels,
                marker={"color": model.colour, "symbol": model.symbol, "size": 9},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - value for _, value, _, high in defined],
                    "arrayminus": [value - low for _, value, low, _ in defined],
                    "thickness": 1,
                },
                customdata=[[row.dataset, model.seed, row.before, row.after] for row, *_ in defined],
                hovertemplate=f"{model.variant}, seed %{{customdata[1]}}<br>%{{customdata[0]}}: "
                "%{customdata[2]:.3f} to %{customdata[3]:.3f}<extra></extra>",
            )
        )
    title = f"{metric}: after / before" if retention else f"{metric}: after - before"
    style(figure, title, "", height=170 + max(60, 13 * len(series)) * len(datasets))
    figure.update_layout(legend={"orientation": "v", "y": 1, "x": 1.02})
    figure.update_yaxes(tickvals=list(range(len(datasets))), ticktext=datasets, zeroline=False)
    figure.update_yaxes(range=[len(datasets) - 0.4, -0.6])
    figure.add_vline(x=1 if retention else 0, line={"color": "#5b6875", "dash": "dot"})
    return figure


def _interval(row: VariantEvaluationRow, *, retention: bool) -> tuple[Any, Any, Any]:
    """Return a value with its interval; all are None where it is not defined."""
    if retention:
        return row.retention, row.retention_low, row.retention_high
    return row.difference, row.ci_low, row.ci_high


def separation(rows: Sequence[LayerSeparationRow], dataset: str) -> "Figure":
    """Draw by layer how much closer a question's end is to right answers than to wrong ones, a line for each model."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for model in _series([row for row in rows if row.dataset == dataset]):
        figure.add_trace(
            Scatter(
                x=[row.layer for row in model.rows],
                y=[row.gap for row in model.rows],
                mode="lines+markers",
                **model.labels,
                line={"color": model.colour, "width": 1.5},
                marker={"symbol": model.symbol, "size": 5},
                customdata=[[row.closer, model.seed] for row in model.rows],
                hovertemplate=f"{model.variant}, seed %{{customdata[1]}}<br>layer %{{x}}: gap %{{y:.3f}}, closer in "
                "%{customdata[0]:.1%} of pairs<extra></extra>",
            )
        )
    style(figure, f"{dataset}: layer", "cosine, right - wrong", height=330)
    return figure


def training(rows: Sequence[TrainingStepRow]) -> "Figure":
    """Draw the loss and its terms by step, one below the other."""
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    terms = ["loss", *(term for term in TERMS if any(getattr(row, term) is not None for row in rows))]
    figure = make_subplots(rows=len(terms), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    for model in _series(rows):
        for number, term in enumerate(terms, start=1):
            figure.add_trace(
                Scatter(
                    x=[row.step for row in model.rows],
                    y=[getattr(row, term) for row in model.rows],
                    mode="lines",
                    **model.labels | {"showlegend": number == 1 and model.labels["showlegend"]},
                    line={"color": model.colour, "width": 1.5},
                    hovertemplate=f"{model.variant}, seed {model.seed}, step %{{x}}<br>{term} %{{y:.4f}}"
                    "<extra></extra>",
                ),
                row=number,
                col=1,
            )
    style(figure, "", "", height=120 + 150 * len(terms))
    for number, term in enumerate(terms, start=1):
        figure.update_yaxes(title=term, row=number, col=1)
    figure.update_xaxes(title="step", row=len(terms), col=1)
    return figure
