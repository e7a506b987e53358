"""Checks of the search space against the hallucination run that it is computed from."""

from collections.abc import Collection, Iterable

from stratoscope.errors import InputError, suggest
from stratoscope.pipelines.search.eavss.config import DefinitionSearchSection


def check_taps(taps: Iterable[str], available: Collection[str], name: str) -> None:
    """Check that a run has the taps of the space.

    Args:
        taps: taps of the space.
        available: taps of the run.
        name: name of the run in the configuration, for messages.

    Raises:
        InputError: a tap is missing.
    """
    for tap in taps:
        if tap not in available:
            raise InputError(f"statistics {name!r} has no tap {tap}, which thresholds.taps asks for")


def check_parts(parts: Iterable[str], available: Collection[str], name: str) -> None:
    """Check that a run has the parts of answers that the space needs.

    Args:
        parts: parts of the space; `change` needs answer and question.
        available: parts of the run.
        name: name of the run in the configuration, for messages.

    Raises:
        InputError: a part is missing.
    """
    needed = {read for part in parts for read in (("answer", "question") if part == "change" else (part,))}
    for part in sorted(needed - set(available)):
        raise InputError(
            f"statistics {name!r} has no part {part!r}, which thresholds.parts needs; read it with --readings.parts"
        )


def split_datasets(
    section: DefinitionSearchSection, available: Collection[str], name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the data sets that trials are compared on, and those that the best one is confirmed on.

    Args:
        section: the search space.
        available: data sets of the run.
        name: name of the run in the configuration, for messages.

    Raises:
        InputError: a data set is missing, has both roles, or none is left to compare trials on.
    """
    for dataset in (*section.choose_on, *section.confirm_on):
        if dataset not in available:
            raise InputError(
                f"statistics {name!r} has no data set {dataset!r}{suggest(dataset, available, 'data sets')}"
            )
    both = set(section.choose_on) & set(section.confirm_on)
    if both:
        raise InputError(f"thresholds: {min(both)!r} is in choose_on and in confirm_on; it can only be one")
    choose_on = section.choose_on or [dataset for dataset in available if dataset not in section.confirm_on]
    if not choose_on:
        raise InputError("thresholds.confirm_on leaves no data set to compare trials on")
    return tuple(choose_on), tuple(section.confirm_on)
