"""What a faithfulness run comes to: spread over seeds, what faithful training changes, and verdicts in words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby
from typing import Any

import numpy as np
from scipy import stats

from stratoscope.forecasting.faithful import preference
from stratoscope.pipelines.faithfulness.cells import NONE
from stratoscope.pipelines.faithfulness.config import VerdictSection

Row = dict[str, Any]
METRICS = ("mae", "mse")
RISES = tuple(f"{metric}_rise" for metric in METRICS)
CONFIDENCE = 0.95


def spreads(cells: Sequence[Row], seeds: Sequence[int]) -> list[tuple[object, ...]]:
    """Return the rows of `spreads`: each forecaster without perturbation, over seeds.

    Args:
        cells: rows of `cells`, of finished ones.
        seeds: in order; the first is the base of the preference.
    """
    found: list[tuple[object, ...]] = []
    clean = [row for row in cells if row["perturbation"] == NONE]
    by_seed = _by_seed(clean, ("dataset", "forecaster", "training", "horizon"))
    for key, own in by_seed.items():
        dataset, forecaster, training, horizon = key
        plain = by_seed.get((dataset, forecaster, "plain", horizon), {})
        for metric in METRICS:
            values = np.array([own[seed][metric] for seed in seeds if seed in own])
            liked = _preferences(own, plain, seeds, metric) if training != "plain" else []
            deviation = float(values.std(ddof=1)) if len(values) > 1 else None
            found.append(
                (
                    dataset,
                    forecaster,
                    training,
                    horizon,
                    metric,
                    len(values),
                    float(values.mean()),
                    deviation,
                    *deviation_interval(deviation, len(values)),
                    float(np.ptp(values)),
                    float(np.median(liked)) if liked else None,
                )
            )
    return found


def _preferences(own: dict[int, Row], plain: dict[int, Row], seeds: Sequence[int], metric: str) -> list[float]:
    base = seeds[0]
    if base not in own or base not in plain:
        return []
    both = [seed for seed in seeds[1:] if seed in own and seed in plain]
    each = [preference(own[base][metric], own[s][metric], plain[base][metric], plain[s][metric]) for s in both]
    return [value for value in each if value is not None]


def differences(cells: Sequence[Row]) -> list[tuple[object, ...]]:
    """Return the rows of `differences`: of each pair of trainings, paired by seed.

    Args:
        cells: rows of `cells`, of finished ones.
    """
    fields = ("dataset", "forecaster", "horizon", "perturbation", "level")
    trainings = list(dict.fromkeys(row["training"] for row in cells))
    risen = list(_with_rises(cells))
    by_training = {t: _by_seed([r for r in risen if r["training"] == t], fields) for t in trainings}
    found: list[tuple[object, ...]] = []
    for other, training in combinations(trainings, 2):
        for key, own in by_training[training].items():
            theirs = by_training[other].get(key, {})
            seeds = [seed for seed in own if seed in theirs]
            metrics = METRICS if key[3] == NONE else (*METRICS, *RISES, "moved")
            for metric in metrics if seeds else ():
                ones, others = (np.array([m[s][metric] for s in seeds]) for m in (own, theirs))
                difference = ones - others
                means = float(ones.mean()), float(others.mean()), float(difference.mean())
                found.append((*key, metric, training, other, len(seeds), *means, *interval(difference)))
    return found


def _with_rises(cells: Sequence[Row]) -> Iterator[Row]:
    """Yield the rows with what each perturbation adds to the errors of the same forecaster without it."""
    fields = ("dataset", "forecaster", "training", "seed", "horizon")
    clean = {tuple(r[f] for f in fields): r for r in cells if r["perturbation"] == NONE}
    for row in cells:
        own = clean[tuple(row[f] for f in fields)]
        yield row | {rise: row[metric] - own[metric] for metric, rise in zip(METRICS, RISES, strict=True)}


def interval(values: np.ndarray[Any, Any]) -> tuple[float | None, float | None]:
    """Return Student's interval of a mean; (None, None) of a single value."""
    if len(values) < 2:
        return None, None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return float(values.mean()) - half, float(values.mean()) + half


def deviation_interval(deviation: float | None, number: int) -> tuple[float | None, float | None]:
    """Return the interval of the standard deviation of normal values, from that of a sample; (None, None) of one."""
    if deviation is None:
        return None, None
    low, high = stats.chi2.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], number - 1)
    return deviation * ((number - 1) / high) ** 0.5, deviation * ((number - 1) / low) ** 0.5


def verdicts(cells: Sequence[Row], spread_rows: Sequence[tuple[object, ...]], when: VerdictSection) -> Iterator[str]:
    """Say of each forecaster and training, horizon by horizon, what it survives.

    Args:
        cells: rows of `cells`, of finished ones.
        spread_rows: of `spreads`.
        when: it is said not to survive.
    """
    for row in spread_rows:
        dataset, forecaster, training, horizon, metric, seeds, mean, deviation, *_ = row
        if metric != "mse":
            continue
        own = [
            r
            for r in cells
            if (r["dataset"], r["forecaster"], r["training"], r["horizon"]) == (dataset, forecaster, training, horizon)
        ]
        name = f"{forecaster}, {training}, {dataset}, horizon {horizon}"
        yield f"{name}: {_of_seeds(mean, deviation, seeds, when)}; {_of_perturbations(own, when)}."


def _of_seeds(mean: Any, deviation: Any, seeds: Any, when: VerdictSection) -> str:
    if deviation is None:
        return "one seed tells nothing of another"
    share = deviation / mean if mean else 0.0
    said = "survives" if share <= when.spread else "does not survive"
    return f"{said} another seed (squared error varies by {share:.2%} over {seeds} seeds)"


def _of_perturbations(own: Sequence[Row], when: VerdictSection) -> str:
    clean = np.mean([r["mae"] for r in own if r["perturbation"] == NONE])
    lost: list[str] = []
    survived: list[str] = []
    ordered = sorted((r for r in own if r["perturbation"] != NONE), key=_perturbation)
    for (perturbation, level), rows in groupby(ordered, key=_perturbation):
        growth = float(np.mean([r["mae"] for r in rows]) / clean - 1) if clean else math.inf
        (survived if growth <= when.degradation else lost).append(f"{perturbation} {level:g} ({growth:+.1%})")
    parts = [f"survives {', '.join(survived)}"] if survived else []
    parts += [f"does not survive {', '.join(lost)}"] if lost else []
    return "; ".join(parts) or "was met with no perturbation"


def _perturbation(row: Row) -> tuple[str, float]:
    return row["perturbation"], row["level"]


def _by_seed(rows: Sequence[Row], fields: Sequence[str]) -> dict[tuple[Any, ...], dict[int, Row]]:
    found: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[field] for field in fields), {})[row["seed"]] = row
    return found


def failed_row(values: tuple[object, ...], error: str) -> tuple[object, ...]:
    """Return the row of `cells` of one that failed."""
    return (*values, None, None, None, None, None, None, "failed", error)


def counts(cells: Sequence[Row]) -> Mapping[str, int]:
    """Return how many fitted forecasters there are, and how many failed."""
    return {
        "cells": len({(r["dataset"], r["forecaster"], r["training"], r["seed"], r["horizon"]) for r in cells}),
        "failed": sum(r["status"] == "failed" for r in cells),
    }
