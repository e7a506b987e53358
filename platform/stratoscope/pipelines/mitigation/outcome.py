"""The outcome of a mitigation run: comparisons, verdicts, and the rows of its tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stratoscope.evaluation import (
    LOWER_IS_BETTER,
    Comparison,
    ItemValues,
    MetricKey,
    PairwiseComparison,
    Resampling,
    compare,
    compare_variants,
    group_scores,
)
from stratoscope.mitigation import BASE, RANDOM, TERMS, Variant
from stratoscope.pipelines.mitigation.store import ModelScores, TrainedVariant
from stratoscope.pipelines.runtime.peaks import highest
from stratoscope.results import TableRow
from stratoscope.statistics import least_sign_p, not_shown
from stratoscope.tables.mitigation import (
    NOT_RECOVERED,
    TrainingStepRow,
    VariantComparisonRow,
    VariantErrorRow,
    VariantEvaluationRow,
    VariantRow,
)

QUESTION_METRICS = ("mc1", "mc2", "pairwise", "exact_match", "perplexity")
"""Metrics in the verdicts of fine-tuning. Metrics of tasks appear only in the tables."""
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class EvaluatedModel:
    """An evaluated model, as tables name it."""

    key: str
    name: str
    seed: int | None


@dataclass(frozen=True, eq=False)
class MitigationOutcome:
    """All comparisons of a run."""

    models: dict[EvaluatedModel, dict[MetricKey, Comparison]]
    """Each model against the base, by data set and metric."""
    variants: list[PairwiseComparison]
    """Each variant against the base and the other variants, by means over seeds."""
    recovery: bool

    @property
    def verdicts(self) -> list[str]:
        """The findings, in words."""
        base = [c for c in self.variants if c.other == BASE]
        others = [c for c in self.variants if c.other != BASE and c.dataset is None]
        return [*base_verdicts(base, recovery=self.recovery), *map(variant_verdict, others)]

    def card_rows(self) -> dict[str, list[list[str]]]:
        """Return the rows of the table in a model's card, by the model's key."""
        return {model.key: [_card_row(key, c) for key, c in own.items()] for model, own in self.models.items()}


def compare_models(
    variants: Sequence[Variant], scores: Mapping[str, ModelScores], resampling: Resampling
) -> MitigationOutcome:
    """Compare every model with the base, and the variants with each other.

    Args:
        variants: the variants that were trained and evaluated.
        scores: scores of each model by its key.
        resampling: settings of the paired bootstrap over items.
    """
    models = list(list_models(variants))
    values = {model.key: group_scores(scores[model.key].scores) for model in models}
    base = values[BASE]
    seeds: dict[str, list[dict[MetricKey, ItemValues]]] = {}
    for variant in variants:
        seeds.setdefault(variant.name, []).append(values[variant.key])
    return MitigationOutcome(
        {
            model: {
                key: compare(items, values[model.key][key], resampling.stream(key[0]), key[1])
                for key, items in base.items()
            }
            for model in models
        },
        compare_variants(seeds | {BASE: [base]}, resampling),
        recovery=any(variant.dropped for variant in variants),
    )


def list_models(variants: Sequence[Variant]) -> Iterator[EvaluatedModel]:
    """Yield the base and, for each variant, its pruned model before training and the variant."""
    yield EvaluatedModel(BASE, BASE, None)
    for variant in variants:
        if variant.dropped:
            yield EvaluatedModel(variant.pruned_key, f"{variant.name}{NOT_RECOVERED}", variant.seed)
        yield EvaluatedModel(variant.key, variant.name, variant.seed)


def base_verdicts(comparisons: Sequence[PairwiseComparison], *, recovery: bool) -> Iterator[str]:
    """Yield the change of each variant from the base on every data set, one line for each metric."""
    for name, metric in dict.fromkeys((c.variant, c.metric) for c in comparisons if c.dataset is not None):
        if not recovery and metric not in QUESTION_METRICS:
            continue
        own = [c for c in comparisons if (c.variant, c.metric) == (name, metric) and c.dataset is not None]
        seeds = f", mean of {own[0].seeds} seeds" if own[0].seeds > 1 else ""
        yield f"{name}, {metric}{seeds}: {'; '.join(_change_text(c, recovery=recovery) for c in own)}."


def _change_text(pair: PairwiseComparison, *, recovery: bool) -> str:
    change = pair.comparison
    if change.ratio.missing:
        relative = f"{change.difference.value_text('+.3f')}, relative change not defined for a base of 0"
    elif recovery:
        relative = f"{change.ratio.value_text('.1%')}, {change.ratio.interval_text('.1%')}"
    else:
        relative = change.relative.value_text("+.1%")
    if not recovery:
        relative += f", {_finding(pair)}"
    return f"{pair.dataset} {change.before.value_text('.3f')} -> {change.after.value_text('.3f')} ({relative})"


def _finding(pair: PairwiseComparison) -> str:
    """Return the corrected p-value of a difference, or why there is no finding."""
    if pair.p_holm <= SIGNIFICANT:
        return f"p {pair.p_holm:.2g}"
    return _not_shown(pair) or "within noise"


def _not_shown(pair: PairwiseComparison) -> str | None:
    return why_not_shown(pair.comparison.num_items, pair.least_p)


def why_not_shown(num_items: int, least_p: float | None) -> str | None:
    """Return a text that no difference could be significant; None if one could be, or if this is unknown.

    Args:
        num_items: number of items.
        least_p: smallest possible p-value; None if an older version wrote the run.
    """
    if least_p is None or least_p <= SIGNIFICANT:
        return None
    few_items = least_sign_p(num_items) > SIGNIFICANT
    items = f"{num_items} item{'s' if num_items > 1 else ''}"
    return not_shown(items if few_items else "so few draws (evaluation.bootstrap)", least_p)


def variant_verdict(pair: PairwiseComparison) -> str:
    """Return whether a variant is better than another by a metric, averaged over data sets."""
    change = pair.comparison
    sign = -1 if pair.metric in LOWER_IS_BETTER else 1
    relation = "not different, within noise, from"
    if pair.p_value <= SIGNIFICANT:
        relation = "better than" if sign * change.difference.value > 0 else "worse than"
    subject = f"{pair.variant} is {relation} {pair.other}"
    if limit := _not_shown(pair):
        subject = f"{pair.variant} and {pair.other}: {limit}"
    return (
        f"{subject} by {pair.metric}, averaged over data sets and {pair.seeds} "
        f"seed{'s' if pair.seeds > 1 else ''}: {change.after.value_text('.3f')} against "
        f"{change.before.value_text('.3f')}, {change.difference.text('+.3f')}."
    )


def training_problems(trained: Sequence[TrainedVariant], failed: Mapping[Variant, str]) -> Iterator[str]:
    """Yield one line for each training that diverged and each variant that failed."""
    for model in trained:
        if model.diverged:
            yield (
                f"{model.variant.key} diverged: its loss became non-finite after its last checkpoint, that of step "
                f"{len(model.steps)}, which was evaluated; use a lower train.learning_rate."
            )
    for variant, error in failed.items():
        yield f"{variant.key} failed and is in no comparison: {error}."


def layer_notes(trained: Sequence[TrainedVariant], num_layers: int) -> Iterator[str]:
    """Yield a line if random layers include flagged ones, because there are not as many others.

    Args:
        trained: the trained variants.
        num_layers: number of layers of the whole model.
    """
    sizes = {len(model.layers) for model in trained if model.variant.name == RANDOM}
    for size in sorted(size for size in sizes if 2 * size > num_layers):
        yield (
            f"random is no comparison with other layers: it trains {size} of {num_layers} layers, and only "
            f"{num_layers - size} are not flagged or given, so that it trains some of those too; use fewer layers."
        )


def _card_row(key: MetricKey, change: Comparison) -> list[str]:
    ratio = change.ratio
    retention = ratio.value_text(".1%") if ratio.missing else f"{ratio.value:.1%}, {ratio.interval_text('.1%')}"
    noise = " (within noise)" if change.within_noise else ""
    return [
        *key,
        change.before.value_text(".3f"),
        change.after.value_text(".3f"),
        retention + noise,
        str(change.num_items),
    ]


def outcome_tables(
    outcome: MitigationOutcome,
    trained: Sequence[TrainedVariant],
    scores: Mapping[str, ModelScores],
    failed: Mapping[Variant, str],
) -> dict[str, Sequence[TableRow]]:
    """Return the rows of a run's tables, by table."""
    models = list(outcome.models)
    return {
        "training": [row for model in trained for row in training_rows(model)],
        "variants": [variant_row(model) for model in trained],
        "evaluation": [_evaluation_row(m, key, c) for m, own in outcome.models.items() for key, c in own.items()],
        "comparison": [comparison_row(pair) for pair in outcome.variants],
        "items": [row for m in models for row in scores[m.key].item_rows(m.name, m.seed)],
        "separation": [row for m in models for row in scores[m.key].separation_rows(m.name, m.seed)],
        "errors": [VariantErrorRow(variant=v.name, seed=v.seed, error=error) for v, error in failed.items()],
    }


def training_rows(model: TrainedVariant) -> Iterator[TrainingStepRow]:
    """Yield the steps of a training."""
    for step in model.steps:
        terms: Any = {term: step.get(term) for term in TERMS}
        yield TrainingStepRow(
            variant=model.variant.name,
            seed=model.variant.seed,
            step=int(step["step"]),
            loss=step["loss"],
            **terms,
            gradient_norm=step["gradient_norm"],
            learning_rate=step["learning_rate"],
            tokens=int(step["tokens"]),
            tokens_per_s=step["tokens_per_s"],
        )


def variant_row(model: TrainedVariant) -> VariantRow:
    """Return the row of a trained variant."""
    return VariantRow(
        variant=model.variant.name,
        seed=model.variant.seed,
        layers=model.layers,
        dropped_layers=model.variant.dropped,
        trained_parameters=model.parameters,
        learning_rate=model.learning_rate,
        steps=len(model.steps),
        diverged=model.diverged,
        seconds=model.seconds,
        tokens=round(sum(step["tokens"] for step in model.steps)),
        step_seconds=round(sum(step["tokens"] / step["tokens_per_s"] for step in model.steps), 3),
        peak_memory_bytes=highest(model.steps, "peak_memory_bytes") or 0,
        peak_gpu_memory_bytes=highest(model.steps, "peak_gpu_memory_bytes"),
    )


def _evaluation_row(model: EvaluatedModel, key: MetricKey, change: Comparison) -> VariantEvaluationRow:
    return VariantEvaluationRow(
        variant=model.name,
        seed=model.seed,
        dataset=key[0],
        metric=key[1],
        n=change.num_items,
        before=change.before.value,
        after=change.after.value,
        difference=change.difference.value,
        ci_low=change.difference.low,
        ci_high=change.difference.high,
        retention=change.ratio.value,
        retention_low=change.ratio.low,
        retention_high=change.ratio.high,
    )


def comparison_row(pair: PairwiseComparison) -> VariantComparisonRow:
    """Return the row of a comparison between two variants."""
    change = pair.comparison
    return VariantComparisonRow(
        variant=pair.variant,
        other=pair.other,
        dataset=pair.dataset,
        metric=pair.metric,
        n=change.num_items,
        seeds=pair.seeds,
        mean=change.after.value,
        spread=pair.spread,
        other_mean=change.before.value,
        other_spread=pair.other_spread,
        difference=change.difference.value,
        ci_low=change.difference.low,
        ci_high=change.difference.high,
        relative=change.relative.value,
        p_value=pair.p_value,
        p_holm=pair.p_holm,
        least_p=pair.least_p,
    )
