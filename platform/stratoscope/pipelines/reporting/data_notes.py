"""Lines about the data of a run: rows left out, prompts that were truncated, activations that are not finite."""

from collections.abc import Mapping, Sequence
from typing import Any

from stratoscope.evaluation import TruncatedPrompts
from stratoscope.results import Manifest

ALWAYS_TOLD = ("kept", "empty", "duplicate")
"""Counts that are shown even if they are zero."""


def prompt_counts(facts: Mapping[str, Any], limit: str = "prompts.limit") -> str:
    """Return how many rows of prompts were read, and the parts that add up to them.

    Args:
        facts: facts of a score run, or of a source of texts.
        limit: name of the option that limits the rows.
    """
    read, kept = facts["prompts_read"], facts["num_prompts"]
    empty, duplicates = facts["prompts_empty"], facts["prompts_duplicate"]
    held_out, short = facts.get("prompts_held_out", 0), facts.get("prompts_too_short", 0)
    parts = {
        "kept": kept,
        "empty": empty,
        "duplicate": duplicates,
        "with a held-out question": held_out,
        "of a single token": short,
        f"beyond {limit}": read - kept - empty - duplicates - held_out - short,
    }
    return f"{read:,} rows read: {_listed(parts)}"


def question_counts(dataset: Mapping[str, Any]) -> str:
    """Return how many questions of a data set were read, and the parts that add up to them.

    Args:
        dataset: numbers of a `DataSet`; runs of older versions have fewer of them.
    """
    parts = {
        "kept": dataset["kept"],
        "empty": dataset.get("empty", 0),
        "without usable answers": dataset["unusable"],
        "duplicate": dataset["duplicates"],
        "examples": dataset.get("shots", 0),
        "beyond pairs.limit": dataset.get("over_limit", 0),
    }
    rows = dataset.get("rows", dataset["read"])
    of_rows = "" if rows == dataset["read"] else f" in {rows:,} rows"
    missing = dataset.get("missing_answers", 0)
    answers = f"; {missing:,} missing answers were left out" if missing else ""
    return f"{dataset['read']:,} questions read{of_rows}: {_listed(parts)}{answers}"


def part_counts(parts: Mapping[str, int]) -> str:
    """Return how many questions of a data set are in each part of a fine-tuning.

    Args:
        parts: numbers of questions by part; runs of older versions have no `left_out`.
    """
    search = f", {parts['validated']:,} for the search" if parts["validated"] else ""
    return f"{parts['trained']:,} questions for training, {parts['held_out']:,} held out{search}{left_out_note(parts)}"


def left_out_note(parts: Mapping[str, int]) -> str:
    """Return how many questions were left out of training and evaluation, and why; empty if there are none."""
    number, unreadable = parts.get("left_out", 0), parts.get("unreadable", 0)
    reason = "longer than the model's limit with an answer, or an answer has no token"
    return (f", {number:,} left out of training ({reason})" if number else "") + (
        f", {unreadable:,} left out of the evaluation (an answer has no token)" if unreadable else ""
    )


def truncation_notes(truncated: Sequence[TruncatedPrompts]) -> list[str]:
    """Return a sentence for each task or data set whose prompts were truncated.

    Args:
        truncated: numbers of truncated prompts.
    """
    return [
        f"{task.name}: {task.number:,} of {task.total:,} prompts are longer than the limit ({task.max_tokens:,} "
        "tokens, the answer included) and have lost their beginning."
        for task in truncated
        if task.number
    ]


def nonfinite_notes(manifest: Manifest) -> list[str]:
    """Return a warning about activations that are NaN or infinite, if a run has read any."""
    number = manifest.counts.get("nonfinite", 0)
    if not number:
        return []
    layers = manifest.facts.get("nonfinite_layers", {})
    places = "; ".join(f"{tap}: layers {' '.join(map(str, of_tap))}" for tap, of_tap in layers.items())
    return [
        f"WARNING: {number:,} activations are NaN or infinite and were left out of all statistics"
        f"{f' ({places})' if places else ''}. The scores of these layers, and of those after them, are not those of a "
        "working model: use --model.dtype float32, or another checkpoint."
    ]


def _listed(parts: Mapping[str, int]) -> str:
    """Return counts with their names. Zero counts are left out, except those in `ALWAYS_TOLD`."""
    return ", ".join(f"{number:,} {name}" for name, number in parts.items() if number or name in ALWAYS_TOLD)
