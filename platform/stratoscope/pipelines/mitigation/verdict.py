"""The verdict of a mitigation run: its title and sentences, generated from the tables of the run."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stratoscope.evaluation import LOWER_IS_BETTER
from stratoscope.mitigation import BASE
from stratoscope.pipelines.mitigation.outcome import QUESTION_METRICS, SIGNIFICANT, why_not_shown
from stratoscope.pipelines.reporting.formatting import count_text, interval_text, list_text, percent_text
from stratoscope.tables.mitigation import (
    NOT_RECOVERED,
    VariantComparisonRow,
    VariantErrorRow,
    VariantEvaluationRow,
    VariantRow,
)

MAX_FINDINGS = 2
"""Maximum number of findings in a sentence. The title and the evidence contain all findings."""


@dataclass(frozen=True)
class VerdictRows:
    """The rows of a run that its verdict is based on."""

    model: str
    """Name of the model as shown in titles."""
    num_layers: int
    recovery: bool
    """Whether layers were dropped before the training."""
    variants: Sequence[VariantRow]
    comparison: Sequence[VariantComparisonRow]
    evaluation: Sequence[VariantEvaluationRow]
    errors: Sequence[VariantErrorRow]

    @property
    def main(self) -> str:
        """Name of the variant that the run is about; the others are compared with it."""
        return self.variants[0].variant

    def against_base(self) -> list[VariantComparisonRow]:
        """Return the main variant's comparisons with the base on single data sets, by metrics of questions."""
        own = [row for row in self.comparison if (row.variant, row.other) == (self.main, BASE)]
        own = [row for row in own if row.dataset is not None and is_defined(row.difference)]
        return [row for row in own if row.metric in QUESTION_METRICS] or own


def is_defined(value: float | None) -> bool:
    """Return whether a number is finite. Tables contain None where a score is NaN."""
    return value is not None and math.isfinite(value)


def is_finding(row: VariantComparisonRow) -> bool:
    """Return whether a difference is beyond noise, with the p-value corrected for the data sets of its metric."""
    return row.p_holm <= SIGNIFICANT


def main_metric(metrics: Sequence[str]) -> str:
    """Return the metric that represents all metrics: the first where higher is better, or else the first."""
    return next((metric for metric in metrics if metric not in LOWER_IS_BETTER), metrics[0])


def title(rows: VerdictRows) -> str:
    """Return the main finding of the run in one line."""
    if not rows.variants or not rows.against_base():
        return "No model was trained and compared"
    layers = rows.variants[0].layers
    if not rows.recovery:
        return f"{_capital(count_text(len(layers), 'layer'))} fine-tuned: {_changes_in_words(rows.against_base())}"
    dropped = rows.variants[0].dropped_layers
    return f"{len(dropped)} of {rows.num_layers} layers dropped and recovered: {_recovery_in_words(rows)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _changes_in_words(rows: Sequence[VariantComparisonRow]) -> str:
    """Return which metrics changed beyond noise, and how."""
    findings = [row for row in rows if is_finding(row)]
    if not findings:
        if all(why_not_shown(row.n, row.least_p) for row in rows):
            return "no change could be shown"
        return "no change beyond noise"
    by_direction: dict[str, list[str]] = {}
    for metric in dict.fromkeys(row.metric for row in findings):
        by_direction.setdefault(_direction([r for r in findings if r.metric == metric]), []).append(metric)
    return ", ".join(f"{list_text(metrics)} {direction}" for direction, metrics in by_direction.items())


def _direction(rows: Sequence[VariantComparisonRow]) -> str:
    directions = {_is_better(row) for row in rows}
    if len(directions) > 1:
        return "better on some data sets and worse on others"
    return "better" if directions.pop() else "worse"


def _is_better(row: VariantComparisonRow) -> bool:
    return (row.difference > 0) != (row.metric in LOWER_IS_BETTER)


@dataclass(frozen=True)
class _Recovery:
    """A metric of the whole, the pruned and the trained model, as means over data sets and seeds."""

    metric: str
    num_datasets: int
    whole: float
    pruned: float
    trained: float


def _recovery(rows: VerdictRows) -> _Recovery:
    own = [row for row in rows.evaluation if row.variant == rows.main]
    pruned = [row for row in rows.evaluation if row.variant == f"{rows.main}{NOT_RECOVERED}"]
    metric = main_metric([row.metric for row in own])
    own, pruned = ([row for row in some if row.metric == metric] for some in (own, pruned))
    return _Recovery(
        metric,
        len({row.dataset for row in own}),
        whole=float(np.mean([row.before for row in own])),
        pruned=float(np.mean([row.after for row in pruned])),
        trained=float(np.mean([row.after for row in own])),
    )


def _recovery_in_words(rows: VerdictRows) -> str:
    r = _recovery(rows)
    if not r.whole:
        return f"{r.metric} {r.trained:.3f}, {r.pruned:.3f} before training"
    if r.metric in LOWER_IS_BETTER:
        return f"{r.metric} {r.trained / r.whole:.2f} times the whole model's, {r.pruned / r.whole:.2f} before training"
    return f"{percent_text(r.trained / r.whole)} of {r.metric} kept, {percent_text(r.pruned / r.whole)} before training"


def sentences(rows: VerdictRows) -> list[str]:
    """Return up to three sentences: what changed, which trainings have problems, and how variants compare."""
    if not rows.variants or not rows.against_base():
        return list(_problems(rows))
    first = _recovery_sentence(rows) if rows.recovery else _change_sentence(rows)
    return [first, *_problems(rows), *_others(rows), *_limits(rows)][:3]


def _change_sentence(rows: VerdictRows) -> str:
    """Return how the metrics of the main variant changed, the most certain changes first."""
    ordered = sorted(rows.against_base(), key=lambda row: row.p_holm)
    findings = [row for row in ordered if is_finding(row)]
    layers = rows.variants[0].layers
    subject = f"Training {count_text(len(layers), 'layer')} of {rows.model}"
    if findings:
        rest = len(findings) - MAX_FINDINGS
        more = f", and {count_text(rest, 'more change')} beyond noise" if rest > 0 else ""
        return f"{subject} {list_text([_finding_text(row) for row in findings[:MAX_FINDINGS]])}{more}."
    row = ordered[0]
    example = (
        f"{row.metric} on {row.dataset}, the most certain change, is {row.difference:+.3f} "
        f"({interval_text(row.ci_low, row.ci_high, '+.3f')})"
    )
    limits = [limit for r in ordered if (limit := why_not_shown(r.n, r.least_p))]
    if len(limits) == len(ordered):
        return f"{_capital(limits[0])}: {example}."
    return f"{subject} changed no metric beyond noise: {example}."


def _finding_text(row: VariantComparisonRow) -> str:
    verb = "improved" if _is_better(row) else "worsened"
    return f"{verb} {row.metric} on {row.dataset} from {row.other_mean:.3f} to {row.mean:.3f} (p {row.p_holm:.2g})"


def _recovery_sentence(rows: VerdictRows) -> str:
    r = _recovery(rows)
    datasets = f", averaged over {r.num_datasets} data sets" if r.num_datasets > 1 else ""
    own = [row for row in rows.comparison if (row.variant, row.other, row.metric) == (rows.main, BASE, r.metric)]
    # The last row is the mean over data sets. With a single data set, it is the only row.
    row = own[-1]
    return (
        f"Without {count_text(len(rows.variants[0].dropped_layers), 'layer')} and after {rows.variants[0].steps} steps "
        f"of training, {rows.model} reaches {r.metric} {r.trained:.3f}{datasets}, against {r.whole:.3f} of the whole "
        f"model ({row.difference:+.3f}, {interval_text(row.ci_low, row.ci_high, '+.3f')}) and {r.pruned:.3f} before "
        "training."
    )


def _problems(rows: VerdictRows) -> Iterator[str]:
    """Yield a sentence on trainings that diverged or failed."""
    diverged = [f"{row.variant}-{row.seed}" for row in rows.variants if row.diverged]
    failed = [f"{row.variant}-{row.seed}" for row in rows.errors]
    parts = [f"{list_text(names)} {what}" for names, what in ((diverged, "diverged"), (failed, "failed")) if names]
    if parts:
        yield f"{' and '.join(parts)}; 'All findings' says why."


def _others(rows: VerdictRows) -> Iterator[str]:
    """Yield a sentence that compares the main variant with the others by one metric, averaged over data sets."""
    pairs = [row for row in rows.comparison if row.variant == rows.main and row.other != BASE]
    pairs = [row for row in pairs if is_defined(row.difference)]
    if not pairs:
        return
    metric = main_metric([row.metric for row in pairs])
    last = {row.other: row for row in pairs if row.metric == metric}
    yield f"By {metric}, {rows.main} is {list_text([_relation(row) for row in last.values()])}."


def _relation(row: VariantComparisonRow) -> str:
    if limit := why_not_shown(row.n, row.least_p):
        return f"not comparable with {row.other}: {limit}"
    relation = "not different, within noise, from"
    if row.p_value <= SIGNIFICANT:
        relation = "better than" if _is_better(row) else "worse than"
    return f"{relation} {row.other} ({row.difference:+.3f}, {interval_text(row.ci_low, row.ci_high, '+.3f')})"


def _limits(rows: VerdictRows) -> Iterator[str]:
    """Yield a sentence on a data set that is too small for a finding, if other data sets are large enough."""
    own = rows.against_base()
    limits = {row.dataset or "": limit for row in own if (limit := why_not_shown(row.n, row.least_p))}
    if limits and len(limits) < len({row.dataset for row in own}):
        dataset, limit = next(iter(limits.items()))
        yield f"On {dataset}, {limit}."
