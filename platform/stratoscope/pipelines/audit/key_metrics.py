"""Key metrics of finished runs: the few numbers that an audit compares between nights, read from a run's tables.

The row types of some tables import torch, so each function imports its own.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from stratoscope.results import Run, TableRow
from stratoscope.scoring import KeyMetric

if TYPE_CHECKING:
    from stratoscope.tables.faithfulness import CellRow, SpreadRow

RowType = TypeVar("RowType", bound=TableRow)


def score_metrics(run: Run) -> Iterator[KeyMetric]:
    """Yield the noise floor of the order of layers, and the numbers of prompts and of layers that are not finite."""
    from stratoscope.tables.score import StabilityRow

    rows = [row for row in _rows(run, "stability", StabilityRow) if row.group == "all"]
    floors = [row.split_half for row in rows if row.split_half is not None]
    if floors:
        yield KeyMetric("least split-half correlation", min(floors), "stability")
    counts = run.manifest.counts
    for name, count in (("prompts", "scored"), ("prompts that failed", "errors")):
        if count in counts:
            yield KeyMetric(name, counts[count])
    yield _nonfinite_layers(run)


def _nonfinite_layers(run: Run) -> KeyMetric:
    """Return the number of layers with activations that are NaN or infinite, of which any increase is a regression."""
    layers = {layer for own in run.manifest.facts.get("nonfinite_layers", {}).values() for layer in own}
    return KeyMetric("layers with NaN or infinite activations", len(layers), "failures")


def hallucination_metrics(run: Run) -> Iterator[KeyMetric]:
    """Yield the number of flagged layers, the AUROC of wrong against right answers, and the hallucination rate.

    The number of layers with activations that are not finite is another.
    """
    from stratoscope.tables.hallucination import HallucinationScoreRow, RateRow, SeparationRow

    flagged: Counter[str] = Counter()
    for score in _rows(run, "hallucination_scores", HallucinationScoreRow):
        flagged[f"flagged layers, {score.dataset}, {score.tap}, {score.definition}"] += bool(score.flagged)
    yield from (KeyMetric(name, number) for name, number in flagged.items())
    for row in _rows(run, "separation", SeparationRow):
        if row.features in ("flagged", "all"):
            name = f"AUROC of {row.features} layers, {row.dataset}, {row.tap}"
            yield KeyMetric(name, row.auroc, "auroc" if row.features == "all" else "fact", row.ci_low, row.ci_high)
    for rate in _rows(run, "rates", RateRow):
        if rate.rate is not None:
            name = f"hallucination rate, {rate.dataset}"
            yield KeyMetric(name, rate.rate, "hallucination_rate", rate.ci_low, rate.ci_high)
    yield _nonfinite_layers(run)


def search_metrics(run: Run) -> Iterator[KeyMetric]:
    """Yield the held-out retention of the selected layers, and the size of the pruned model."""
    from stratoscope.tables.pruning import FrontRow

    for row in _rows(run, "front", FrontRow):
        if row.chosen:
            if row.held_out_raw is not None:
                low, high = row.held_out_raw_low, row.held_out_raw_high
                yield KeyMetric("held-out retention", row.held_out_raw, "retention", low, high)
            yield KeyMetric("layers dropped", len(row.dropped_layers))
            yield KeyMetric("parameters, millions", row.parameters / 1e6)


def mitigation_metrics(run: Run) -> Iterator[KeyMetric]:
    """Yield the relative gain of each variant over the base."""
    from stratoscope.tables.mitigation import VariantComparisonRow

    for row in _rows(run, "comparison", VariantComparisonRow):
        if row.other == "base" and row.relative is not None:
            name = f"gain of {row.variant}, {row.dataset or 'mean'}, {row.metric}"
            yield KeyMetric(name, row.relative, "fact" if row.metric == "perplexity" else "gain")


def faithfulness_metrics(run: Run) -> Iterator[KeyMetric]:
    """Yield shares of failed cells, errors, their spread over seeds, and growth under the strongest perturbations."""
    from stratoscope.tables.faithfulness import CellRow, SpreadRow

    cells = _rows(run, "cells", CellRow)
    seeds: dict[str, set[int]] = defaultdict(set)
    failed: dict[str, set[int]] = defaultdict(set)
    for cell in cells:
        seeds[_cell_group(cell)].add(cell.seed)
        if cell.status == "failed":
            failed[_cell_group(cell)].add(cell.seed)
    for name, own in seeds.items():
        yield KeyMetric(f"share of failed cells, {name}", len(failed[name]) / len(own), "failures")
    for row in _rows(run, "spreads", SpreadRow):
        if row.metric == "mse":
            name = _cell_group(row)
            yield KeyMetric(f"squared error, {name}", row.mean, "error")
            if row.deviation is not None and row.mean:
                yield _spread_metric(name, row.deviation / row.mean, failed[name])
    yield from _error_growth(cells)


def _cell_group(row: "CellRow | SpreadRow") -> str:
    """Return the name of the cells that differ only in their seed."""
    return f"{row.forecaster}, {row.training}, {row.dataset}, horizon {row.horizon}"


def _spread_metric(name: str, spread: float, failed: Collection[int]) -> KeyMetric:
    """Return the spread over seeds; where some failed, it is a fact, as that of other seeds is not comparable."""
    whole = f"spread over seeds, {name}"
    if not failed:
        return KeyMetric(whole, spread, "seed_spread")
    of_others = f"spread over seeds without {', '.join(map(str, sorted(failed)))}, {name}"
    return KeyMetric(of_others, spread, instead_of=whole)


def _error_growth(cells: Iterable["CellRow"]) -> Iterator[KeyMetric]:
    """Yield the growth of the absolute error under the highest level of each perturbation."""
    errors: dict[str, dict[tuple[str, float], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in cells:
        if row.perturbation is not None and row.level is not None and row.mae is not None and row.status == "done":
            name = _cell_group(row)
            errors[name][row.perturbation, row.level].append(row.mae)
    for name, by_level in errors.items():
        clean = float(np.mean(by_level.get(("none", 0.0), [np.nan])))
        highest = {perturbation: level for perturbation, level in sorted(by_level) if perturbation != "none"}
        for perturbation, level in highest.items():
            growth = float(np.mean(by_level[perturbation, level])) / clean - 1 if clean else math.nan
            yield KeyMetric(f"growth under {perturbation} {level:g}, {name}", growth)


def _rows(run: Run, table: str, row_type: type[RowType]) -> list[RowType]:
    """Return the rows of a table; not every run has every table."""
    return row_type.read(run.table(table)) if run.storage.exists(f"{table}.parquet") else []
