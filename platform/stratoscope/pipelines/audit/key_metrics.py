"""Key figures: the few numbers of a run that nights are compared by, read from its tables."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from stratoscope.results import Manifest, Storage, read_table

FigureKind = Literal["retention", "auroc", "hallucination_rate", "gain", "seed_spread", "error", "order", "fact"]
"""Each but the last two has a threshold of its own name in the audit's configuration."""
WITHOUT_THRESHOLD: frozenset[FigureKind] = frozenset({"order", "fact"})
"""order is the layers' rank correlation with the night before: it is a comparison, and judged where layers moved."""
HIGH_IS_GOOD = frozenset({"retention", "auroc", "gain"})
RELATIVE = frozenset({"seed_spread", "error"})
"""Kinds whose change is seen by the size of the earlier figure."""


@dataclass(frozen=True)
class KeyMetric:
    """A number that sums up a part of a run."""

    name: str
    """Equal in all nights."""
    value: float
    kind: FigureKind = "fact"
    """Which threshold holds for its change; a fact is shown and never alerts."""
    low: float | None = None
    """Lower end of its interval, where the run has one."""
    high: float | None = None

    def loss(self, before: "KeyMetric") -> float:
        """Return how much worse it is than an earlier one, in the terms of its threshold; below 0 it is better."""
        change = (self.value - before.value) * (-1 if self.kind in HIGH_IS_GOOD else 1)
        return change / max(abs(before.value), 1e-12) if self.kind in RELATIVE else change

    def within_noise(self, before: "KeyMetric") -> bool:
        """Tell whether the intervals of both, where they have any, allow for the change: as of two samples."""
        halves = [(f.high - f.low) / 2 for f in (self, before) if f.low is not None and f.high is not None]
        return len(halves) == 2 and abs(self.value - before.value) <= math.hypot(*halves)


def finite_figures(figures: Iterable[KeyMetric]) -> Iterator[KeyMetric]:
    """Yield the figures that are numbers: a data set without answers has no rate, a diverged forecaster no error."""
    for figure in figures:
        if figure.value is not None and math.isfinite(figure.value):
            ends = (figure.low, figure.high)
            known = all(end is not None and math.isfinite(end) for end in ends)
            yield figure if known else replace(figure, low=None, high=None)


def score_figures(storage: Storage, manifest: Manifest) -> Iterator[KeyMetric]:
    """Yield the noise floor of the layers' order, and what was read."""
    floors = [row["split_half"] for row in read_table(storage, "stability").to_pylist() if row["group"] == "all"]
    known = [floor for floor in floors if floor is not None and not np.isnan(floor)]
    if known:
        yield KeyMetric("least split-half correlation", min(known))
    yield KeyMetric("prompts", manifest.counts["scored"])
    yield KeyMetric("prompts that failed", manifest.counts["errors"])


def hallucination_figures(storage: Storage, _manifest: Manifest) -> Iterator[KeyMetric]:
    """Yield how well flagged layers tell wrong answers, how many are flagged, and how often the model is wrong."""
    scores = read_table(storage, "hallucination_scores").to_pylist()
    flagged: dict[str, int] = {}
    for row in scores:
        key = f"flagged layers, {row['dataset']}, {row['tap']}, {row['definition']}"
        flagged[key] = flagged.get(key, 0) + bool(row["flagged"])
    for key, number in flagged.items():
        yield KeyMetric(key, number)
    for row in _rows(storage, "separation"):
        if row["features"] in ("flagged", "all"):
            name = f"AUROC of {row['features']} layers, {row['dataset']}, {row['tap']}"
            kind: FigureKind = "auroc" if row["features"] == "all" else "fact"
            yield KeyMetric(name, row["auroc"], kind, row["ci_low"], row["ci_high"])
    for row in _rows(storage, "rates"):
        name = f"hallucination rate, {row['dataset']}"
        yield KeyMetric(name, row["rate"], "hallucination_rate", row["ci_low"], row["ci_high"])


def search_figures(storage: Storage, _manifest: Manifest) -> Iterator[KeyMetric]:
    """Yield what the chosen set of layers keeps on held-out items, and how much is left of the model."""
    for row in _rows(storage, "front"):
        if row["chosen"]:
            yield KeyMetric(
                "held-out retention",
                row["held_out_raw"],
                "retention",
                row["held_out_raw_low"],
                row["held_out_raw_high"],
            )
            yield KeyMetric("layers dropped", len(row["dropped_layers"]))
            yield KeyMetric("parameters, millions", row["parameters"] / 1e6)


def mitigation_figures(storage: Storage, _manifest: Manifest) -> Iterator[KeyMetric]:
    """Yield what each variant gains over the base, by the size of the base's."""
    for row in read_table(storage, "comparison").to_pylist():
        if row["other"] != "base" or row["relative"] is None:
            continue
        name = f"gain of {row['variant']}, {row['dataset'] or 'mean'}, {row['metric']}"
        if row["metric"] == "perplexity":
            yield KeyMetric(name, row["relative"])
        else:
            yield KeyMetric(name, row["relative"], "gain")


def faithfulness_figures(storage: Storage, _manifest: Manifest) -> Iterator[KeyMetric]:
    """Yield errors, their spread over seeds, and how much they grow under the strongest perturbations."""
    for row in read_table(storage, "spreads").to_pylist():
        if row["metric"] != "mse":
            continue
        name = f"{row['forecaster']}, {row['training']}, {row['dataset']}, horizon {row['horizon']}"
        yield KeyMetric(f"squared error, {name}", row["mean"], "error")
        if row["deviation"] is not None and row["mean"]:
            yield KeyMetric(f"spread over seeds, {name}", row["deviation"] / row["mean"], "seed_spread")
    yield from _degradations(storage)


def _degradations(storage: Storage) -> Iterator[KeyMetric]:
    cells = [row for row in read_table(storage, "cells").to_pylist() if row["status"] == "done"]
    found: dict[tuple[str, ...], dict[tuple[str, float], list[float]]] = {}
    for row in cells:
        key = (row["forecaster"], row["training"], row["dataset"], str(row["horizon"]))
        found.setdefault(key, {}).setdefault((row["perturbation"], row["level"]), []).append(row["mae"])
    for (forecaster, training, dataset, horizon), errors in found.items():
        clean = float(np.mean(errors.get(("none", 0.0), [np.nan])))
        strongest = {name: level for name, level in sorted(errors) if name != "none"}
        for name, level in strongest.items():
            growth = float(np.mean(errors[name, level])) / clean - 1 if clean else math.nan
            yield KeyMetric(
                f"growth under {name} {level:g}, {forecaster}, {training}, {dataset}, horizon {horizon}", growth
            )


def _rows(storage: Storage, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table that not every run has."""
    return read_table(storage, table).to_pylist() if storage.exists(f"{table}.parquet") else []
