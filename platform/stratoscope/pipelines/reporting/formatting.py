"""What is said of every run in the same words: its facts, its model, its numbers."""

import math
from collections.abc import Iterator

from stratoscope.models import ModelFacts
from stratoscope.results import Manifest


def number_text(value: float | None, form: str) -> str:
    """Return a number as the cell of a table; nothing where there is none."""
    return "" if value is None or math.isnan(value) else format(value, form)


def interval_text(low: float | None, high: float | None, form: str) -> str:
    """Return an interval as the cell of a table; nothing where there is none."""
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"


def model_line(source: str, facts: ModelFacts, dtype: str, device: str) -> str:
    """Return what a dry run says of its model."""
    return (
        f"{source}: {facts.architecture}, {facts.num_layers} layers, {facts.num_parameters / 1e6:,.0f} million "
        f"parameters, {dtype} on {device}"
    )


def model_facts(manifest: Manifest, num_parameters: int) -> Iterator[tuple[str, str]]:
    """Yield pairs of a name and a text: the run, and the model in it."""
    facts = manifest.facts
    yield "Run", manifest.run_id
    yield (
        "Model",
        f"{manifest.config['model']['source']} ({facts['architecture']}, {facts['num_layers']} layers, "
        f"{num_parameters / 1e6:,.1f} million parameters)",
    )
    yield "Weights", manifest.fingerprints["weights"]
    yield "Number format", f"{facts['dtype']} on {facts['device']}"


def run_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield pairs of a name and a text: what the run took, and what would repeat it."""
    yield "Seconds", ", ".join(f"{stage} {seconds:,.1f}" for stage, seconds in manifest.timings.items())
    yield "Seed", str(manifest.seed)
    yield "Versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    yield "Commit", manifest.git_commit or "not a checkout"
