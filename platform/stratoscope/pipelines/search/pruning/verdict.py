"""The verdict of a search with target pruning: its title and sentences, generated from the tables of a run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stratoscope.pipelines.reporting.formatting import (
    count_text,
    list_text,
    model_label,
    percent_interval,
    percent_text,
)
from stratoscope.pruning import RandomSetComparison
from stratoscope.results import Manifest
from stratoscope.statistics import not_shown
from stratoscope.tables.pruning import ComparisonRow, FrontRow

MAX_NAMES = 12
"""Maximum number of layers that a sentence names."""


def chosen_row(front: Sequence[FrontRow]) -> FrontRow | None:
    """Return the row of the chosen set."""
    return next((row for row in front if row.chosen), None)


def title(chosen: FrontRow | None, comparisons: Sequence[ComparisonRow], num_layers: int) -> str:
    """Return the main finding of the search in one line.

    Args:
        chosen: the chosen set.
        comparisons: comparisons of sets with the whole model.
        num_layers: number of layers of the whole model.
    """
    if chosen is None:
        return "No set of layers chosen: no trial has a retention"
    dropped = f"{len(chosen.dropped_layers)} of {num_layers} layers dropped"
    if chosen.held_out_raw is None or math.isnan(chosen.held_out_raw):
        return f"{dropped}: retention on held-out items is not defined"
    rows = _main_rows(comparisons)
    if rows and all(row.above_chance is None for row in rows):
        return f"{dropped}: no task can show what is kept"
    interval = percent_interval(chosen.held_out_raw_low, chosen.held_out_raw_high)
    return f"{dropped}: {percent_text(chosen.held_out_raw)} kept" + (f" ({interval})" if interval else "")


def sentences(chosen: FrontRow | None, comparisons: Sequence[ComparisonRow], manifest: Manifest) -> list[str]:
    """Return up to three sentences: what is kept, whether random sets keep as much, and where this is uninformative."""
    if chosen is None or chosen.held_out_raw is None:
        return list(manifest.facts["verdicts"])[:3]
    return [_kept(chosen, manifest), *_against_random(manifest), *_at_chance(comparisons)]


def _main_rows(comparisons: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Return the chosen set's rows on held-out items, one for each task, with the main metric of the task."""
    by_task: dict[str, ComparisonRow] = {}
    for row in comparisons:
        if row.kind == "chosen" and row.part == "held_out":
            by_task.setdefault(row.task, row)
    return list(by_task.values())


def _kept(chosen: FrontRow, manifest: Manifest) -> str:
    model = model_label(manifest.config["model"]["source"])
    confidence = percent_text(manifest.config["evaluation"]["confidence"])
    interval = percent_interval(chosen.held_out_raw_low, chosen.held_out_raw_high)
    low, high = chosen.held_out_raw_low, chosen.held_out_raw_high
    includes = low is not None and high is not None and low <= 1 <= high
    no_loss = ", which includes no loss" if includes else ""
    speed = f" Its forward pass is {chosen.speed:.2f} times as fast." if chosen.speed is not None else ""
    return (
        f"Without {_layers(chosen.dropped_layers)}, {model} keeps {percent_text(chosen.held_out_raw or 0.0)} of its "
        f"accuracy on held-out items ({confidence} interval {interval}{no_loss}).{speed}"
    )


def _layers(layers: Sequence[int]) -> str:
    if len(layers) > MAX_NAMES:
        return count_text(len(layers), "layer")
    return f"layer{'' if len(layers) == 1 else 's'} {list_text([str(layer) for layer in layers], MAX_NAMES)}"


def random_comparison(facts: Mapping[str, Any]) -> RandomSetComparison | None:
    """Return the comparison of the chosen set with random sets; None if none has a retention."""
    against = facts.get("against_random")
    if not against or not against["random"]:
        return None
    comparison = RandomSetComparison(against["chosen"], tuple(against["random"]))
    return comparison if comparison.defined else None


def _against_random(manifest: Manifest) -> Iterator[str]:
    comparison = random_comparison(manifest.facts)
    if comparison is None:
        return
    total = len(comparison.random)
    sets = f"{total} random set{'' if total == 1 else 's'} of as many layers"
    numbers = f"{percent_text(float(np.mean(comparison.defined)))} on average"
    if comparison.least_p > comparison.level:
        text = not_shown(sets, comparison.least_p)
        yield f"{text[0].upper()}{text[1:]}; they keep {numbers}."
    elif comparison.num_worse == total:
        yield f"All {sets} keep less ({numbers}; p = {comparison.p_value:.3f})."
    elif comparison.p_value <= comparison.level:
        yield f"That is more than {comparison.num_worse} of {sets} keep ({numbers}; p = {comparison.p_value:.3f})."
    else:
        yield (
            f"The choice is no better than chance can explain: it keeps more than {comparison.num_worse} of {sets} "
            f"({numbers}; p = {comparison.p_value:.2f})."
        )


def _at_chance(comparisons: Sequence[ComparisonRow]) -> Iterator[str]:
    """Yield a sentence on the tasks where retention is uninformative."""
    tasks = [row.task for row in _main_rows(comparisons) if row.above_chance is None]
    if tasks:
        yield f"On {list_text(tasks)} the whole model is not above chance, so that what is kept there says little."
