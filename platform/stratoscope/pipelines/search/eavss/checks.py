"""Checks of the search space against the hallucination run that it is computed from."""

from collections.abc import Collection, Mapping

from stratoscope.errors import InputError, suggest
from stratoscope.pipelines.search.eavss.config import DefinitionSearchSection
from stratoscope.scoring.definition_space import DefinitionSpace


def check_readings(space: DefinitionSpace, taps: Collection[str], parts: Collection[str], name: str) -> None:
    """Check that a run has the taps and the parts of answers that a space needs.

    Args:
        space: the search space.
        taps: taps that the run has read.
        parts: parts that it has read.
        name: name of the run in the configuration, for messages.

    Raises:
        InputError: a tap or a part is missing.
    """
    for tap in space.taps:
        if tap not in taps:
            raise InputError(f"statistics {name!r} has no tap {tap}, which thresholds.taps asks for")
    needed = {read for part in space.parts for read in (("answer", "question") if part == "change" else (part,))}
    for part in sorted(needed - set(parts)):
        raise InputError(
            f"statistics {name!r} has no part {part!r}, which thresholds.parts needs; read it with --readings.parts"
        )


def split_datasets(
    section: DefinitionSearchSection, available: Collection[str], tested: Mapping[str, int], name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the data sets on which trials are compared, and those on which the best trial is confirmed.

    Args:
        section: the search space.
        available: data sets of the run.
        tested: number of questions of those that the run has tested; it left the others out.
        name: name of the run in the configuration, for messages.

    Raises:
        InputError: a data set is missing, cannot be tested or has both roles, or none is left to compare trials on.
    """
    for dataset in (*section.choose_on, *section.confirm_on):
        if dataset not in available:
            raise InputError(
                f"statistics {name!r} has no data set {dataset!r}{suggest(dataset, available, 'data sets')}"
            )
        if dataset not in tested:
            raise InputError(
                f"statistics {name!r} could not test data set {dataset!r}, as its verdicts say; leave it out of "
                "thresholds.choose_on and thresholds.confirm_on"
            )
    both = set(section.choose_on) & set(section.confirm_on)
    if both:
        raise InputError(f"thresholds: {min(both)!r} is in choose_on and in confirm_on; it can only be one")
    choose_on = section.choose_on or [dataset for dataset in tested if dataset not in section.confirm_on]
    if not choose_on:
        raise InputError("thresholds.confirm_on leaves no data set to compare trials on")
    for dataset in (*choose_on, *section.confirm_on):
        if tested[dataset] < section.separation.fewest_questions:
            raise InputError(
                f"thresholds.separation.folds {section.separation.folds} needs {section.separation.fewest_questions} "
                f"questions, and data set {dataset!r} has {tested[dataset]}; change it or leave the data set out"
            )
    return tuple(choose_on), tuple(section.confirm_on)
