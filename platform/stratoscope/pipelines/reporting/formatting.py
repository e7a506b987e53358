"""Formatting that all reports share: numbers, intervals, and facts of the model and the run."""

import math
from collections.abc import Iterator, Sequence

from stratoscope.results import Manifest

NO_BREAK = "\N{NO-BREAK SPACE}"
"""Space between a number and its unit."""
MAX_LABEL = 32
"""Maximum number of characters of a model's name in titles."""
_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def number_text(value: float | None, form: str) -> str:
    """Return a number as the text of a table cell, empty where it is missing.

    Args:
        value: the number; None and NaN are missing.
        form: format specification, such as '.2f'.
    """
    return "" if value is None or math.isnan(value) else format(value, form)


def size_text(num_bytes: int | None) -> str:
    """Return a number of bytes in megabytes as the text of a table cell, empty where it is missing."""
    return "" if num_bytes is None else f"{num_bytes / 1e6:,.1f} MB"


def memory_text(host_bytes: int | None, gpu_bytes: int | None) -> str:
    """Return the memory of a process on the host, and on GPUs if it used any, as text; empty if it is missing."""
    host = "" if host_bytes is None else f"{host_bytes / 1e9:.2f} GB"
    return f"{host} on the host, {gpu_bytes / 1e9:.2f} GB on GPUs" if host and gpu_bytes else host


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
    """Return a line for each tap that could not be read, is inaccurate because of rounding, or has equal thresholds."""
    facts = manifest.facts
    notes = [f"tap {tap} was not read: {reason}" for tap, reason in facts.get("withdrawn", {}).items()]
    notes += [
        f"tap {tap}: several quantiles have the same threshold, an edge of the histogram's bins, and are reported once"
        for tap in facts.get("equal_quantiles", [])
    ]
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


def percent_text(value: float, digits: int = 0) -> str:
    """Return a share as a percentage in running text, such as '80 %'."""
    return f"{100 * value:.{digits}f}{NO_BREAK}%"


def percent_interval(low: float | None, high: float | None, digits: int = 0) -> str:
    """Return an interval of a share in running text, such as '76 to 84 %'; empty where an end is missing."""
    ends = [number_text(100 * end if end is not None else None, f".{digits}f") for end in (low, high)]
    return f"{' to '.join(ends)}{NO_BREAK}%" if all(ends) else ""


def count_text(number: int, noun: str) -> str:
    """Return a number with its noun, such as 'six layers'. Numbers up to twelve are spelled out."""
    return f"{_COUNTS[number] if number < len(_COUNTS) else f'{number:,}'} {noun}{'' if number == 1 else 's'}"


def list_text(names: Sequence[str], most: int = 3) -> str:
    """Return a list of names as text, shortened to the first few, such as 'a, b and 2 more'."""
    rest = len(names) - most
    shown = [*names[:most], f"{rest} more"] if rest > 0 else list(names)
    return " and ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part) if shown else ""


def model_label(source: str) -> str:
    """Return the name of a model for titles: the last part of its source, shortened in the middle."""
    name = source.rstrip("/").rsplit("/", 1)[-1] or source
    return name if len(name) <= MAX_LABEL else f"{name[: MAX_LABEL // 2]}…{name[1 - MAX_LABEL // 2 :]}"
