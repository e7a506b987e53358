"""What a mitigation run comes to: rows of its tables, and the verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stratoscope.evaluation import LOWER_IS_BETTER, Resampling
from stratoscope.mitigation import TERMS
from stratoscope.pipelines.mitigation.compare import Change, Key, PairwiseComparison, change, compare, gather
from stratoscope.pipelines.mitigation.store import VariantStore
from stratoscope.pipelines.mitigation.tables import NOT_HEALED
from stratoscope.pipelines.mitigation.variants import Variant

Row = tuple[object, ...]
BASE = "base"
TOLD = ("mc1", "mc2", "pairwise", "exact_match", "perplexity")
"""Metrics of mending that the verdicts tell; those of tasks are in the tables."""
SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class MitigationOutcome:
    """All that a run has found."""

    evaluation: list[Row]
    comparison: list[Row]
    items: list[Row]
    verdicts: list[str]
    changes: dict[tuple[str, Key], Change]
    """By a variant's key, data set and metric."""


def outcome(variants: Sequence[Variant], store: VariantStore, how: Resampling) -> MitigationOutcome:
    """Compare every model with the base, and variants with each other."""
    base = gather(store.scores(BASE))
    judged = {v.key: gather(store.scores(v.key)) for v in variants}
    cut = {v.key: gather(store.scores(v.cut_key)) for v in variants if v.dropped}
    evaluation = [_row(BASE, None, key, change(own, own, key, how)) for key, own in base.items()]
    changes: dict[tuple[str, Key], Change] = {}
    for v in variants:
        models = ([(f"{v.name}{NOT_HEALED}", cut[v.key])] if v.dropped else []) + [(v.name, judged[v.key])]
        for name, measured in models:
            for key, own in base.items():
                found = change(own, measured[key], key, how)
                evaluation.append(_row(name, v.seed, key, found))
                if name == v.name:
                    changes[v.key, key] = found
    names = dict.fromkeys(v.name for v in variants)
    compared = compare({n: [judged[v.key] for v in variants if v.name == n] for n in names} | {BASE: [base]}, how)
    verdicts = [
        *_against_base([v for v in compared if v.other == BASE], healing=bool(cut)),
        *_better([v for v in compared if v.other != BASE and v.dataset is None]),
    ]
    return MitigationOutcome(
        evaluation, [_comparison_row(v) for v in compared], list(_items(variants, store)), verdicts, changes
    )


def _against_base(compared: Sequence[PairwiseComparison], *, healing: bool) -> Iterator[str]:
    """Say what each variant came to on every data set, one line for each metric that people ask for."""
    for name, metric in dict.fromkeys((v.variant, v.metric) for v in compared if v.dataset is not None):
        if not healing and metric not in TOLD:
            continue
        own = [v for v in compared if (v.variant, v.metric) == (name, metric) and v.dataset is not None]
        seeds = f", mean of {own[0].seeds} seeds" if own[0].seeds > 1 else ""
        yield f"{name}, {metric}{seeds}: {'; '.join(_kept(v) if healing else _gained(v) for v in own)}."


def _kept(v: PairwiseComparison) -> str:
    share, low, high = (1 + x for x in (v.relative.value, v.relative.low, v.relative.high))
    return f"{v.dataset} {v.other_mean:.3f} -> {v.mean:.3f} ({share:.1%}, {low:.1%} to {high:.1%})"


def _gained(v: PairwiseComparison) -> str:
    noise = f", p {v.p_holm:.2g}" if v.p_holm <= SIGNIFICANT else ", within noise"
    # Of a base that gets nothing right there is no share.
    gain = f"{v.relative.value:+.1%}" if v.other_mean else f"{v.difference.value:+.3f}"
    return f"{v.dataset} {v.other_mean:.3f} -> {v.mean:.3f} ({gain}{noise})"


def _better(means: Sequence[PairwiseComparison]) -> Iterator[str]:
    for v in means:
        sign = -1 if v.metric in LOWER_IS_BETTER else 1
        low, high = sorted((sign * v.difference.low, sign * v.difference.high))
        said = "better than" if low > 0 else "worse than" if high < 0 else "no different, within noise, from"
        yield (
            f"{v.variant} is {said} {v.other} by {v.metric}, averaged over data sets and {v.seeds} "
            f"seed{'s' if v.seeds > 1 else ''}: {v.mean:.3f} against {v.other_mean:.3f}, {v.difference.value:+.3f} "
            f"({v.difference.low:+.3f} to {v.difference.high:+.3f})."
        )


def _row(name: str, seed: int | None, key: Key, c: Change) -> Row:
    return (
        name,
        seed,
        *key,
        c.n,
        c.before,
        c.after,
        c.difference.value,
        c.difference.low,
        c.difference.high,
        c.retention.value,
        c.retention.low,
        c.retention.high,
    )


def _comparison_row(v: PairwiseComparison) -> Row:
    return (
        v.variant,
        v.other,
        v.dataset,
        v.metric,
        v.n,
        v.seeds,
        v.mean,
        None if np.isnan(v.spread) else v.spread,
        v.other_mean,
        None if np.isnan(v.other_spread) else v.other_spread,
        v.difference.value,
        v.difference.low,
        v.difference.high,
        v.relative.value,
        v.p_value,
        v.p_holm,
    )


def _models(variants: Sequence[Variant]) -> Iterator[tuple[str, str, int | None]]:
    """Yield key, name and seed of every judged model."""
    yield BASE, BASE, None
    for v in variants:
        if v.dropped:
            yield v.cut_key, f"{v.name}{NOT_HEALED}", v.seed
        yield v.key, v.name, v.seed


def _items(variants: Sequence[Variant], store: VariantStore) -> Iterator[Row]:
    for key, name, seed in _models(variants):
        for s in store.scores(key):
            yield name, seed, s.dataset, s.metric, s.item_id, s.value, s.weight


def separation_rows(variants: Sequence[Variant], store: VariantStore) -> Iterator[Row]:
    """Yield the rows of `separation`."""
    for key, name, seed in _models(variants):
        for s in store.separations(key):
            yield name, seed, s.dataset, s.layer, s.n, s.gap, s.closer


def training_rows(variants: Sequence[Variant], store: VariantStore) -> Iterator[Row]:
    """Yield the rows of `training`."""
    for v in variants:
        for row in (store.trained(v) or {})["steps"]:
            yield (
                v.name,
                v.seed,
                int(row["step"]),
                row["loss"],
                *(row.get(term) for term in TERMS),
                row["gradient_norm"],
                row["learning_rate"],
                int(row["tokens"]),
                row["tokens_per_s"],
            )


def card_rows(found: MitigationOutcome, variant: Variant) -> list[list[str]]:
    """Return the table of a model's card."""
    return [
        [dataset, metric, f"{c.before:.3f}", f"{c.after:.3f}", _card_text(c), str(c.n)]
        for (key, (dataset, metric)), c in found.changes.items()
        if key == variant.key
    ]


def _card_text(c: Change) -> str:
    kept = f"{c.retention.value:.1%}, {c.retention.low:.1%} to {c.retention.high:.1%}"
    return kept + (" (within noise)" if c.difference.low <= 0 <= c.difference.high else "")


def variant_rows(variants: Sequence[Variant], store: VariantStore) -> Iterator[Row]:
    """Yield the rows of `variants`."""
    for v in variants:
        facts = store.trained(v) or {}
        yield (
            v.name,
            v.seed,
            facts["layers"],
            list(v.dropped),
            facts["parameters"],
            facts["learning_rate"],
            len(facts["steps"]),
            facts["diverged"],
            facts["seconds"],
            int(facts["steps"][-1]["peak_memory_bytes"]),
        )


def tuning_rows(searches: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """Yield the rows of `tuning`, from each variant's search."""
    for name, found in searches.items():
        for index, trial in enumerate(found["trials"]):
            yield (
                name,
                f"{index:03d}",
                *(trial.get(field) for field in ("learning_rate", "temperature", "contrastive", "forgetting")),
                trial.get("num_layers"),
                trial["reports"],
                trial["objective"],
                trial["chosen"],
                "error" if trial["error"] else "done",
                trial["error"],
            )
