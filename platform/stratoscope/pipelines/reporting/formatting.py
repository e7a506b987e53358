"""Formatting of what every report shows: numbers, intervals, facts of the model and of the run."""

import math
from collections.abc import Iterator

from stratoscope.results import Manifest


def number_text(value: float | None, form: str) -> str:
    """Return a number as the text of a table cell, empty where it is missing.

    Args:
        value: the number; None and NaN are missing.
        form: format specification, such as '.2f'.
    """
    return "" if value is None or math.isnan(value) else format(value, form)


def interval_text(low: float | None, high: float | None, form: str) -> str:
    """Return an interval as the text of a table cell, empty where an end is missing."""
    ends = [number_text(low, form), number_text(high, form)]
    return " to ".join(ends) if all(ends) else ""


def model_facts(manifest: Manifest, num_parameters: int) -> Iterator[tuple[str, str]]:
    """Yield names and texts that identify a run and its model."""
    facts = manifest.facts
    yield "Run", manifest.run_id
    yield (
        "Model",
        f"{manifest.config['model']['source']} ({facts['architecture']}, {facts['num_layers']} layers, "
        f"{num_parameters / 1e6:,.1f} million parameters)",
    )
    yield "Weights", manifest.fingerprints["weights"]
    yield "Number format", f"{facts['dtype']} on {facts['device']}"


def tap_notes(manifest: Manifest) -> list[str]:
    """Return a line for each tap that could not be read from the model, or that rounding spoils, with the reason."""
    facts = manifest.facts
    notes = [f"tap {tap} was not read: {reason}" for tap, reason in facts.get("withdrawn", {}).items()]
    layers = facts.get("by_difference", [])
    if layers and facts["dtype"] != "float32":
        notes.append(
            f"tap update of {len(layers)} layers is output minus input, because their parts do not add up to it; in "
            f"{facts['dtype']} that is mostly rounding, so use --model.dtype float32"
        )
    return notes


def run_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield names and texts that say how long a run took and how to reproduce it."""
    yield "Seconds", ", ".join(f"{stage} {seconds:,.1f}" for stage, seconds in manifest.timings.items())
    for line in tap_notes(manifest):
        yield "Taps", line
    yield "Seed", str(manifest.seed)
    yield "Versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield "Commit", manifest.git_commit or "not a checkout"
