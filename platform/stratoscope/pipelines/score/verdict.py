"""The first screen of the score page: the layers that do least, how reliable this is, and warnings."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from stratoscope.pipelines.reporting.data_notes import nonfinite_notes
from stratoscope.pipelines.reporting.formatting import list_text, model_label, percent_text, tap_notes
from stratoscope.pipelines.reporting.layers import layers_text
from stratoscope.pipelines.score.group_report import group_correlations
from stratoscope.pipelines.score.read_scores import ScoredLayers
from stratoscope.scoring import lowest, num_dropped

if TYPE_CHECKING:
    from stratoscope.results import Manifest, Run

LEAST_SPLIT_HALF = 0.5
"""Split-half correlation below which an order of layers is not stated in the title (ours)."""
LEAST_AGREEMENT = 0.8
"""Rank correlation with all prompts below which a group of prompts differs (ours)."""


def main_scoring(scorings: Sequence[ScoredLayers]) -> ScoredLayers:
    """Return the scoring of the first screen: the first metric at the tap update, or at its first tap."""
    metric = scorings[0].scoring.metric
    own = [scoring for scoring in scorings if scoring.scoring.metric == metric]
    return next((scoring for scoring in own if scoring.scoring.tap == "update"), own[0])


def title(manifest: "Manifest", scoring: ScoredLayers) -> str:
    """Return the main finding of the run in one line."""
    model, split_half = model_label(manifest.config["model"]["source"]), scoring.scoring.split_half
    if manifest.counts.get("nonfinite", 0):
        layers = sorted({n for own in manifest.facts.get("nonfinite_layers", {}).values() for n in own})
        return f"{model}: activations{f' of {layers_text(layers)}' if layers else ''} are NaN or infinite"
    if split_half is not None and split_half < LEAST_SPLIT_HALF:
        return f"{model}: no stable order of layers by {scoring.name}"
    chosen = lowest(scoring.rank, _count(manifest, scoring))
    if not chosen:
        return f"{model}: {len(scoring.rank)} layers by {scoring.name}"
    finding = f"{model}: {layers_text(chosen)} {'does' if len(chosen) == 1 else 'do'} least by {scoring.name}"
    return f"{finding}, of unknown stability" if split_half is None and scoring.from_prompts else finding


def _count(manifest: "Manifest", scoring: ScoredLayers) -> int:
    return num_dropped(manifest.config["scores"]["ratio"], len(scoring.rank))


def warnings(manifest: "Manifest") -> Iterator[str]:
    """Yield what a reader must know before interpreting the scores."""
    yield from nonfinite_notes(manifest)
    if errors := manifest.counts.get("errors", 0):
        number = manifest.counts["prompts"]
        yield f"WARNING: {errors:,} of {number:,} prompts could not be scored; errors.parquet lists them."
    if never := manifest.counts.get("layers_never_sparse", 0):
        yield (
            f"WARNING: up to {never} layers of a tap have no activation under epsilon, so that their AVSS depends on "
            "variance alone."
        )
    notes = tap_notes(manifest)
    if notes:
        yield f"WARNING: {'; '.join(notes)}."


def sentences(run: "Run", scorings: Sequence[ScoredLayers]) -> Iterator[str]:
    """Yield sentences on the stability of the order of layers, the agreement of groups, and the limits of scores.

    Args:
        run: a finished score run.
        scorings: its scorings of all prompts.
    """
    manifest, scoring = run.manifest, main_scoring(scorings)
    yield _stability(scoring, _count(manifest, scoring), manifest.config["scores"]["confidence"])
    yield from _groups(group_correlations(run, scoring))
    yield "A score does not predict what the model loses without a layer; evaluate the pruned model, as search does."


def _stability(scoring: ScoredLayers, count: int, confidence: float) -> str:
    split_half, overlapping = scoring.scoring.split_half, scoring.overlapping(count)
    if split_half is None:
        name = f"{scoring.name[:1].upper()}{scoring.name[1:]}"
        if not scoring.from_prompts:
            return f"{name} does not depend on the prompts."
        return f"The stability of {scoring.name} is unknown: no two halves of the prompts could be compared."
    parts = [f"Split-half {split_half:.2f}: {_meaning(split_half)}"]
    interval, number = f"{percent_text(confidence)} intervals", len(scoring.rank)
    if overlapping:
        exchangeable = f"{layers_text(overlapping)} could change places with others"
        parts.append(f"of the lowest {count} of {number} layers, {exchangeable} ({interval} overlap)")
    elif count:
        stand = "the lowest layer stands" if count == 1 else f"the lowest {count} of {number} layers stand"
        parts.append(f"{stand} apart from the others ({interval})")
    return f"{'; '.join(parts)}."


def _meaning(split_half: float) -> str:
    if split_half < LEAST_SPLIT_HALF:
        return "two halves of the prompts order the layers differently"
    return "two halves of the prompts order the layers " + ("alike" if split_half >= 0.9 else "similarly, not alike")


def _groups(correlations: "dict[str, float]") -> Iterator[str]:
    """Yield a sentence on whether groups of prompts order the layers in the same way as all prompts."""
    if len(correlations) < 2:
        return
    undefined = [name for name, c in correlations.items() if math.isnan(c)]
    if undefined:
        yield f"The order of layers cannot be compared in {list_text(undefined)}: too few layers differ in their score."
    correlations = {name: c for name, c in correlations.items() if not math.isnan(c)}
    differing = sorted((c, name) for name, c in correlations.items() if c < LEAST_AGREEMENT)
    number = len(correlations)
    if not correlations:
        return
    if not differing:
        least = min(correlations.values())
        yield f"All {number} groups of prompts order the layers alike (least rank correlation with all: {least:.2f})."
        return
    texts = [f"{name} ({correlation:+.2f})" for correlation, name in differing]
    yield (
        f"{len(differing)} of {number} groups of prompts order the layers differently (rank correlation with all): "
        f"{list_text(texts)}."
    )
