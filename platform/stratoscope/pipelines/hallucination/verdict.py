"""The first screen of the hallucination page: flagged layers, and how they compare with random and other features."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from stratoscope.pipelines.hallucination.outcome import SIGNIFICANT
from stratoscope.pipelines.reporting.data_notes import nonfinite_notes
from stratoscope.pipelines.reporting.formatting import list_text, model_label, tap_notes
from stratoscope.pipelines.reporting.layers import layers_text
from stratoscope.statistics import least_rank_p, not_shown
from stratoscope.tables.hallucination import HallucinationScoreRow, SeparationRow

if TYPE_CHECKING:
    from stratoscope.results import Manifest

SeparationVerdict = Literal["better", "no better", "worse"]
MAX_REASONS = 2
"""Maximum number of sentences on why no layer is flagged."""


def title(manifest: "Manifest", rows: Sequence[HallucinationScoreRow]) -> str:
    """Return the main finding of the run in one line.

    Args:
        manifest: manifest of the run.
        rows: the scores that flag the layers.
    """
    model = model_label(manifest.config["model"]["source"])
    by_tap = {tap: {row.layer for row in rows if row.flagged and row.tap == tap} for tap in _taps(rows)}
    flagged = [f"{layers_text(layers)} ({tap})" for tap, layers in by_tap.items() if layers]
    if not flagged:
        return f"{model}: no layer could be flagged with {_questions(rows)} questions"
    reacting = sum(map(len, by_tap.values()))
    datasets = len({row.dataset for row in rows})
    where = f" in at least one of {datasets} data sets" if datasets > 1 else ""
    return f"{model}: {list_text(flagged)} {'reacts' if reacting == 1 else 'react'} to wrong answers{where}"


def _taps(rows: Sequence[HallucinationScoreRow]) -> list[str]:
    return list(dict.fromkeys(row.tap for row in rows))


def _questions(rows: Sequence[HallucinationScoreRow]) -> int:
    """Return the number of questions of all data sets."""
    return sum({row.dataset: row.num_questions for row in rows}.values())


def warnings(manifest: "Manifest") -> Iterator[str]:
    """Yield what a reader must know before interpreting the results."""
    yield from nonfinite_notes(manifest)
    if errors := manifest.counts.get("errors", 0):
        yield f"WARNING: {errors:,} questions could not be read; errors.parquet lists them."
    if notes := tap_notes(manifest):
        yield f"WARNING: {'; '.join(notes)}."


def sentences(
    manifest: "Manifest", rows: Sequence[HallucinationScoreRow], separation: Sequence[SeparationRow]
) -> Iterator[str]:
    """Yield sentences on whether flagged layers separate answers better than random ones, or why none is flagged.

    Args:
        manifest: manifest of the run.
        rows: the scores that flag the layers.
        separation: how well features separate answers.
    """
    places = list(dict.fromkeys((row.dataset, row.tap) for row in rows))
    flagged = {place for place in places if any(row.flagged for row in rows if (row.dataset, row.tap) == place)}
    if flagged:
        own = [r for r in separation if r.features == "flagged" and (r.dataset, r.tap) in flagged]
        yield _against_random(own, len(places), manifest.config["separation"]["random_sets"])
        yield from _without_layers(own, separation)
    else:
        reasons = list(dict.fromkeys(manifest.facts["verdicts"]))
        yield from reasons[:MAX_REASONS]
        yield from [f"{len(reasons) - MAX_REASONS} more are under 'Verdicts in words'."][: len(reasons) > MAX_REASONS]


def _against_random(rows: Sequence[SeparationRow], number: int, num_sets: int) -> str:
    """Return a sentence that compares flagged layers with random sets of as many layers."""
    compared = [row for row in rows if row.detectable is not None]
    if not compared:
        return "Layers are flagged, but nothing can be compared with random layers: see 'Verdicts in words'."
    best = max(compared, key=lambda row: row.auroc)
    auroc = f"AUROC {best.auroc:.2f}, {best.ci_low:.2f} to {best.ci_high:.2f}, in {best.dataset}, tap {best.tap}"
    if least_rank_p(num_sets) > SIGNIFICANT:
        limit = not_shown(f"{num_sets} random set{'s' if num_sets > 1 else ''}", least_rank_p(num_sets))
        return f"Flagged layers separate wrong from right answers at best with {auroc}; {limit}."
    rankings = [_ranking(row) for row in compared]
    if number == 1:
        return f"Flagged layers separate wrong from right answers {rankings[0]} than random layers do ({auroc})."
    order: tuple[SeparationVerdict, ...] = ("better", "no better", "worse")
    parts = [f"{ranking} in {rankings.count(ranking)}" for ranking in order if ranking in rankings]
    return (
        f"Layers are flagged in {len(rows)} of {number} pairs of data set and tap; against random layers, they "
        f"separate wrong from right answers {list_text(parts)} (at best {auroc})"
        f"{f', and {len(rows) - len(compared)} cannot be compared' if len(compared) < len(rows) else ''}."
    )


def _ranking(row: SeparationRow) -> SeparationVerdict:
    if row.over_random_low is not None and row.over_random_low > 0:
        return "better"
    return "worse" if row.over_random_high is not None and row.over_random_high < 0 else "no better"


def _without_layers(flagged: Sequence[SeparationRow], separation: Sequence[SeparationRow]) -> Iterator[str]:
    """Yield the AUROC of the length and likelihood of answers on the data set where flagged layers are best."""
    best = max(flagged, key=lambda row: row.auroc)
    auroc = {row.features: row.auroc for row in separation if row.dataset == best.dataset and row.tap is None}
    names = {"likelihood": "the likelihood of an answer", "answer_length": "its length"}
    texts = [f"{text} {auroc[name]:.2f}" for name, text in names.items() if name in auroc]
    if texts:
        yield f"AUROC there without any layer: {' and '.join(texts)}."
