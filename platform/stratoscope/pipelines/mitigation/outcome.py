"""What a mitigation run comes to: rows of its tables, and the verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stratoscope.evaluation import LOWER_IS_BETTER, Estimate, Resampling
from stratoscope.mitigation import TERMS
from stratoscope.pipelines.mitigation.compare import (
    Change,
    Key,
    Measured,
    Versus,
    change,
    estimate,
    gather,
    pairs,
    versus,
)
from stratoscope.pipelines.mitigation.store import VariantStore
from stratoscope.pipelines.mitigation.variants import Variant

Row = tuple[object, ...]
BASE = "base"
CUT = "cut-"
"""Before the key of a variant: the same layers dropped, nothing trained."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """All that a run has found."""

    evaluation: list[Row]
    comparison: list[Row]
    items: list[Row]
    verdicts: list[str]
    changes: dict[tuple[str, Key], Change]
    """By a variant's key, data set and metric."""


def outcome(variants: Sequence[Variant], store: VariantStore, how: Resampling) -> Outcome:
    """Compare every model with the base, and variants with each other."""
    base = gather(store.scores(BASE) or [])
    judged = {v.key: gather(store.scores(v.key) or []) for v in variants}
    cut = {v.key: gather(store.scores(CUT + v.key) or []) for v in variants if v.dropped}
    evaluation = [_row(BASE, None, key, change(own, own, key, how)) for key, own in base.items()]
    changes: dict[tuple[str, Key], Change] = {}
    for v in variants:
        models = ([(f"{v.name}, not healed", cut[v.key])] if v.dropped else []) + [(v.name, judged[v.key])]
        for name, measured in models:
            for key, own in base.items():
                found = change(own, measured[key], key, how)
                evaluation.append(_row(name, v.seed, key, found))
                if name == v.name:
                    changes[v.key, key] = found
    compared = list(_compared(variants, judged, how))
    return Outcome(
        evaluation,
        [_comparison_row(*c) for c in compared],
        list(_items(variants, store)),
        [*_changed(variants, changes), *_better(compared)],
        changes,
    )


def _compared(
    variants: Sequence[Variant], judged: dict[str, dict[Key, Measured]], how: Resampling
) -> Iterator[tuple[str, str, Key | tuple[None, str], int, Versus]]:
    names = list(dict.fromkeys(v.name for v in variants))
    for one, other in pairs(names):
        models = [[judged[v.key] for v in variants if v.name == name] for name in (one, other)]
        draws: dict[str, list[Any]] = {}
        found: dict[str, list[Versus]] = {}
        for key in models[0][0]:
            against, difference = versus([m[key] for m in models[0]], [m[key] for m in models[1]], key, how)
            draws.setdefault(key[1], []).append(difference)
            found.setdefault(key[1], []).append(against)
            yield one, other, key, len(models[0]), against
        for metric, differences in draws.items():
            if len(differences) > 1:
                own = found[metric]
                yield (
                    one,
                    other,
                    (None, metric),
                    len(models[0]),
                    Versus(
                        sum(v.n for v in own),
                        float(np.mean([v.mean for v in own])),
                        float(np.mean([v.spread for v in own])),
                        float(np.mean([v.other_mean for v in own])),
                        float(np.mean([v.other_spread for v in own])),
                        estimate(np.mean(differences, axis=0), how),
                    ),
                )


def _changed(variants: Sequence[Variant], changes: dict[tuple[str, Key], Change]) -> Iterator[str]:
    for v in variants:
        own = {key: found for (name, key), found in changes.items() if name == v.key}
        parts = []
        for (dataset, metric), c in own.items():
            if v.dropped:
                parts.append(f"{dataset} {metric} {c.before:.3f} -> {c.after:.3f} ({_kept(c)})")
            elif metric in ("mc1", "exact_match", "perplexity"):
                parts.append(f"{dataset} {metric} {c.before:.3f} -> {c.after:.3f}{_noise(c.difference)}")
        yield f"{v.name}, seed {v.seed}: {'; '.join(parts)}."


def _kept(c: Change) -> str:
    return f"{c.retention.value:.1%}, {c.retention.low:.1%} to {c.retention.high:.1%}"


def _noise(e: Estimate) -> str:
    return " (within noise)" if e.low <= 0 <= e.high else ""


def _better(compared: Sequence[tuple[str, str, Key | tuple[None, str], int, Versus]]) -> Iterator[str]:
    for one, other, (dataset, metric), seeds, v in compared:
        if dataset is not None:
            continue
        sign = -1 if metric in LOWER_IS_BETTER else 1
        low, high = sorted((sign * v.difference.low, sign * v.difference.high))
        said = "better than" if low > 0 else "worse than" if high < 0 else "no different, within noise, from"
        yield (
            f"{one} is {said} {other} by {metric}, averaged over data sets and {seeds} seed{'s' if seeds > 1 else ''}: "
            f"{v.mean:.3f} against {v.other_mean:.3f}, {v.difference.value:+.3f} "
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


def _comparison_row(one: str, other: str, key: Key | tuple[None, str], seeds: int, v: Versus) -> Row:
    return (
        one,
        other,
        *key,
        v.n,
        seeds,
        v.mean,
        None if np.isnan(v.spread) else v.spread,
        v.other_mean,
        None if np.isnan(v.other_spread) else v.other_spread,
        v.difference.value,
        v.difference.low,
        v.difference.high,
    )


def _items(variants: Sequence[Variant], store: VariantStore) -> Iterator[Row]:
    models: list[tuple[str, str, int | None]] = [(BASE, BASE, None)]
    models += [(CUT + v.key, f"{v.name}, not healed", v.seed) for v in variants if v.dropped]
    models += [(v.key, v.name, v.seed) for v in variants]
    for key, name, seed in models:
        for s in store.scores(key) or []:
            yield name, seed, s.dataset, s.metric, s.item_id, s.value, s.weight


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
                row["tokens_per_s"],
            )


def card_rows(found: Outcome, variant: Variant) -> list[list[str]]:
    """Return the table of a model's card."""
    return [
        [dataset, metric, f"{c.before:.3f}", f"{c.after:.3f}", _kept(c) + _noise(c.difference), str(c.n)]
        for (key, (dataset, metric)), c in found.changes.items()
        if key == variant.key
    ]


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
            facts["seconds"],
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
