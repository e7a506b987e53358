"""The verdict of a search with target eavss: its title and its sentences, from the tables of a run."""

from collections.abc import Sequence

from stratoscope.pipelines.hallucination.outcome import SIGNIFICANT, against_random
from stratoscope.pipelines.reporting.formatting import interval_text, list_text
from stratoscope.statistics import least_rank_p
from stratoscope.tables.eavss import DefinitionOutcomeRow, DefinitionTrialRow

MAX_DATASETS, MAX_LAYERS = 2, 12
"""Maximum numbers of data sets and of layers that a sentence names."""


def is_better(row: DefinitionOutcomeRow, num_sets: int) -> bool:
    """Return whether flagged layers separate answers better than random sets of as many, beyond noise."""
    return row.over_random_low > 0 and least_rank_p(num_sets) <= SIGNIFICANT


def is_worse(row: DefinitionOutcomeRow, num_sets: int) -> bool:
    """Return whether flagged layers separate answers worse than random sets of as many, beyond noise."""
    return row.over_random_high < 0 and least_rank_p(num_sets) <= SIGNIFICANT


def _deciding(outcomes: Sequence[DefinitionOutcomeRow]) -> list[DefinitionOutcomeRow]:
    """Return the results on which the verdict is based: those on data sets that no trial used, if there are any."""
    confirmed = [row for row in outcomes if row.role == "confirmed_on"]
    return confirmed or list(outcomes)


def title(outcomes: Sequence[DefinitionOutcomeRow], num_sets: int, num_trials: int) -> str:
    """Return the main finding of the search in one line.

    Args:
        outcomes: results of the best trial.
        num_sets: number of random sets of layers.
        num_trials: number of trials.
    """
    rows = _deciding(outcomes)
    subject = f"Best of {num_trials} settings" if num_trials > 1 else "One setting"
    if least_rank_p(num_sets) > SIGNIFICANT:
        return f"{subject}: too few random sets to show that its flagged layers are better"
    compared = [row for row in rows if row.num_layers and row.detectable is not None]
    if not compared:
        return f"{subject}: nothing can be compared with random layers"
    better = [row for row in compared if is_better(row, num_sets)]
    where = f"on {list_text([row.dataset for row in better])}" if better else ""
    if rows[0].role == "confirmed_on":
        where = f"{where}, which no trial used" if where else "on data that no trial used"
    finding = "flagged layers beat random ones" if better else "flagged layers are no better than random ones"
    rest = f" (of {len(rows)} data sets)" if better and len(better) < len(rows) else ""
    return f"{subject}: {finding} {where}".rstrip() + rest


def sentences(candidate: DefinitionTrialRow, outcomes: Sequence[DefinitionOutcomeRow], num_sets: int) -> list[str]:
    """Return three sentences: the result, the data that it is based on, and the settings.

    Args:
        candidate: the best trial.
        outcomes: its results.
        num_sets: number of random sets of layers.
    """
    rows = _deciding(outcomes)
    confirmed = rows[0].role == "confirmed_on"
    caveat = (
        "No trial used these questions."
        if confirmed
        else "The choice was made on these questions, which favours it; name other data sets in thresholds.confirm_on."
    )
    setting = (
        f"That setting is {candidate.metric} on tap {candidate.tap}, part {candidate.part}, with {candidate.variance} "
        f"variance and a propensity above {candidate.propensity:g}."
    )
    return [_result_text(rows, num_sets), caveat, setting]


def _result_text(rows: Sequence[DefinitionOutcomeRow], num_sets: int) -> str:
    """Return the results on the first data sets in a sentence."""
    findings: dict[str, list[str]] = {}
    for row in rows[:MAX_DATASETS]:
        finding = against_random(row.over_random_low, row.over_random_high, row.detectable, row.num_layers, num_sets)
        findings.setdefault(finding, []).append(row.dataset)
    by_dataset = [f"on {list_text(datasets)}, {finding}" for finding, datasets in findings.items()]
    finding = "; ".join(by_dataset) if len(findings) > 1 else next(iter(findings))
    rest = len(rows) - MAX_DATASETS
    more = f", and layers on {rest} more data sets" if rest > 0 else ""
    parts = list_text([_outcome_text(row) for row in rows[:MAX_DATASETS]])
    return f"The best setting flags {parts}{more}: {finding}."


def _outcome_text(row: DefinitionOutcomeRow) -> str:
    layers = list_text([str(layer) for layer in row.flagged_layers], MAX_LAYERS)
    interval = interval_text(row.over_random_low, row.over_random_high, "+.3f")
    return (
        f"{f'layers {layers}' if layers else 'no layers'} on {row.dataset} (AUROC {row.auroc:.3f} on held-out "
        f"questions, {row.over_random:+.3f} against random sets, {interval})"
    )
