"""The figures of the mitigation report."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from stratoscope.evaluation import LOWER_IS_BETTER
from stratoscope.mitigation import TERMS
from stratoscope.pipelines.mitigation.outcome import SIGNIFICANT
from stratoscope.pipelines.mitigation.verdict import is_finding
from stratoscope.pipelines.reporting.figures import IntervalMark, interval_plot
from stratoscope.results import COLOURS, INK, SYMBOLS, integer_step, style
from stratoscope.statistics import least_sign_p
from stratoscope.tables.mitigation import (
    NOT_RECOVERED,
    LayerSeparationRow,
    TrainingStepRow,
    VariantComparisonRow,
    VariantEvaluationRow,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FigureRow = TypeVar("FigureRow", TrainingStepRow, LayerSeparationRow)
FEW_STEPS = 30
"""Maximum number of steps for which a curve shows its points."""
UNITS = {
    "loss": "weighted sum of the terms",
    "contrastive": "nats per question and layer",
    "likelihood": "nats per token",
    "margin": "shortfall per wrong answer",
    "forgetting": "nats per token",
    "hidden": "mismatch per token",
    "text": "nats per token",
}
"""Unit of each curve of a training."""


@dataclass(frozen=True)
class _Series(Generic[FigureRow]):
    """The rows of one model, with its style."""

    variant: str
    seed: int | None
    rows: list[FigureRow]
    labels: dict[str, Any]
    """Name and legend entry of its traces. Seeds of a variant share one legend entry."""
    colour: str
    symbol: str


def _series(rows: Sequence[FigureRow]) -> Iterator[_Series[FigureRow]]:
    """Group rows by model. A pruned model before training has its variant's colour and an open symbol."""
    variants = list(dict.fromkeys(row.variant.removesuffix(NOT_RECOVERED) for row in rows))
    models = list(dict.fromkeys((row.variant, row.seed) for row in rows))
    for number, (variant, seed) in enumerate(models):
        kind = variants.index(variant.removesuffix(NOT_RECOVERED))
        first = all(earlier != variant for earlier, _ in models[:number])
        yield _Series(
            variant,
            seed,
            [row for row in rows if (row.variant, row.seed) == (variant, seed)],
            {"name": html.escape(variant), "legendgroup": variant, "showlegend": first},
            COLOURS[kind % len(COLOURS)],
            SYMBOLS[kind % len(SYMBOLS)] + ("-open" if variant.endswith(NOT_RECOVERED) else ""),
        )


def differences(rows: Sequence[VariantComparisonRow], model: str) -> "Figure":
    """Draw each variant's difference from the base, as the mean over seeds, for the first screen."""
    several = len({row.variant for row in rows}) > 1
    marks = [
        IntervalMark(
            f"{row.dataset}, {row.metric}",
            row.difference,
            row.ci_low,
            row.ci_high,
            is_finding(row),
            row.variant if several else "",
            f"{row.variant}, {row.dataset}, {row.metric}: {row.other_mean:.3f} to {row.mean:.3f}, p {row.p_holm:.2g}",
        )
        for row in rows
    ]
    title = f"{model}: fine-tuned against the base"
    axis = "difference (after - before)"
    return interval_plot(marks, axis, title=title, form="+.3f", reference=0.0, with_reference=True, is_first=True)


def changes(
    rows: Sequence[VariantEvaluationRow], metric: str, model: str, *, retention: bool, is_first: bool = False
) -> "Figure | None":
    """Draw the change of a metric on each data set, a point for each variant and seed; None where none is defined.

    Args:
        rows: results of the variants.
        metric: the metric.
        model: name of the model.
        retention: whether to draw ratios rather than differences.
        is_first: whether the figure is on the first screen, which has room for few data sets.
    """
    several = len({row.variant for row in rows}) > 1
    marks = [mark for row in rows if (mark := _change_mark(row, retention=retention, is_named=several))]
    if not marks:
        return None
    better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
    quantity = "after / before" if retention else "after - before"
    return interval_plot(
        marks,
        f"{metric}, {quantity} ({better})",
        title=f"{model}: {metric}, {quantity}",
        form=".0%" if retention else "+.3f",
        reference=float(retention),
        with_reference=True,
        is_first=is_first,
    )


def _change_mark(row: VariantEvaluationRow, *, retention: bool, is_named: bool) -> IntervalMark | None:
    """Return the mark of a model on a data set; None where the value is not defined."""
    value, low, high = _interval(row, retention=retention)
    if value is None or low is None or high is None:
        return None

    has_enough_items = least_sign_p(row.n) <= SIGNIFICANT
    return IntervalMark(
        row.dataset,
        value,
        low,
        high,
        has_enough_items and not low <= float(retention) <= high,
        row.variant if is_named else "",
        f"{row.variant}, seed {row.seed}, {row.dataset}: {row.before:.3f} to {row.after:.3f}",
    )


def _interval(row: VariantEvaluationRow, *, retention: bool) -> tuple[float | None, float | None, float | None]:
    """Return a value with its interval; all are None where it is not defined."""
    if retention:
        return row.retention, row.retention_low, row.retention_high
    return row.difference, row.ci_low, row.ci_high


def separation(rows: Sequence[LayerSeparationRow], dataset: str, model: str) -> "Figure":
    """Draw how much closer the end of a question is to right than to wrong answers, by layer, with a line per model."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for series in _series([row for row in rows if row.dataset == dataset]):
        figure.add_trace(
            Scatter(
                x=[row.layer for row in series.rows],
                y=[row.gap for row in series.rows],
                mode="lines+markers",
                **series.labels,
                line={"color": series.colour, "width": 1.5},
                marker={"symbol": series.symbol, "size": 6},
                customdata=[[row.closer, series.seed] for row in series.rows],
                hovertemplate=f"{html.escape(series.variant)}, seed %{{customdata[1]}}<br>"
                f"layer %{{x}}: gap %{{y:.3f}}, "
                "closer in %{customdata[0]:.1%} of pairs<extra></extra>",
            )
        )
    title = html.escape(f"{model}, {dataset}: right and wrong answers")
    style(figure, "layer", "cosine, right - wrong", title=title, height=330, by_layer=True)
    figure.add_hline(y=0, line={"color": INK, "dash": "dot", "width": 1})
    return figure


def training(rows: Sequence[TrainingStepRow], model: str) -> list["Figure"]:
    """Draw the loss and each of its terms by step, a line for each training."""
    terms = ["loss", *(term for term in TERMS if any(getattr(row, term) is not None for row in rows))]
    return [_training_curve(rows, term, model) for term in terms]


def _training_curve(rows: Sequence[TrainingStepRow], term: str, model: str) -> "Figure":
    from plotly.graph_objects import Figure, Scatter

    most = max(row.step for row in rows)
    figure = Figure(
        [
            Scatter(
                x=[row.step for row in series.rows],
                y=[getattr(row, term) for row in series.rows],
                mode="lines+markers" if most <= FEW_STEPS else "lines",
                **series.labels,
                line={"color": series.colour, "width": 1.5},
                marker={"symbol": series.symbol, "size": 6},
                hovertemplate=f"{html.escape(series.variant)}, seed {series.seed}, step %{{x}}<br>{term} %{{y:.4g}}"
                "<extra></extra>",
            )
            for series in _series(rows)
        ]
    )
    style(figure, "step", f"{term} ({UNITS[term]})", title=f"{html.escape(model)}: {term} of the training", height=280)
    figure.update_xaxes(dtick=integer_step(most), range=[1 - 0.03 * most, 1.03 * most])
    return figure
