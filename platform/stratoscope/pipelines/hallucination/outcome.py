"""The outcome of a hallucination run in words."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from stratoscope.pipelines.reporting.formatting import list_text
from stratoscope.pipelines.reporting.layers import layers_text
from stratoscope.scoring import AnswerObservations, AnswerView, DatasetResult, LayerTestResult, Readings
from stratoscope.statistics import least_rank_p, not_shown
from stratoscope.tables.hallucination import SeparationRow

SIGNIFICANT = 0.05


def verdicts(
    separation: Sequence[SeparationRow], results: Sequence[DatasetResult], *, random_sets: int
) -> Iterator[str]:
    """Yield one sentence for each data set and tap: the flagged layers, and whether they beat random ones.

    Args:
        separation: how well features separate answers.
        results: the layer tests of each data set.
        random_sets: number of random sets of layers.
    """
    rows = {(row.dataset, row.tap, row.features): row for row in separation}
    for result in results:
        for test in result.layer_tests:
            layers = " ".join(map(str, np.flatnonzero(test.flagged)))
            if not layers:
                yield f"{result.dataset}, tap {test.tap}: no layer is flagged ({_why_none(test)})."
                continue
            flagged, random = (rows[result.dataset, test.tap, features] for features in ("flagged", "random"))
            over, low, high = flagged.over_random, flagged.over_random_low, flagged.over_random_high
            assert over is not None
            assert low is not None
            assert high is not None
            assert flagged.num_layers is not None
            comparison = against_random(low, high, flagged.detectable, flagged.num_layers, random_sets)
            yield (
                f"{result.dataset}, tap {test.tap}: layers {layers} are flagged; on held-out questions, flagged layers "
                f"separate wrong answers from right ones with AUROC {flagged.auroc:.3f}, {over:+.3f} ({low:+.3f} to "
                f"{high:+.3f}) against {random.auroc:.3f}: {comparison}."
            )


def against_random(low: float, high: float, detectable: float | None, num_layers: float, num_sets: int) -> str:
    """Describe the interval of a difference to random sets of layers in words.

    Args:
        low: lower end of the interval.
        high: upper end of the interval.
        detectable: smallest difference that data of this size detects; None where the two sides are the same.
        num_layers: mean number of flagged layers over folds.
        num_sets: number of random sets. With few sets, the best rank occurs by chance too often to be a finding.
    """
    if not num_layers:
        return "no fold's training questions flag a layer, so there is nothing to compare"
    if least_rank_p(num_sets) > SIGNIFICANT:
        return not_shown(
            f"{num_sets} random set{'s' if num_sets > 1 else ''} of as many layers", least_rank_p(num_sets)
        )
    if low > 0:
        return "better than random sets of as many layers"
    if high < 0:
        return "worse than random sets of as many layers"
    if detectable is None:
        return "random sets of as many layers are the same layers, so there is nothing to compare"
    return f"no better than random sets of as many layers; this data could show {detectable:.3f}"


def unreadable_notes(read: AnswerObservations, kept: AnswerObservations, views: Sequence[AnswerView]) -> Iterator[str]:
    """Yield sentences on answers that are left out, and on layers that cannot be read.

    Args:
        read: the observations as they were read.
        kept: the observations without the answers that cannot be read.
        views: the views of the answers.
    """
    for dataset, answers in kept.answers.items():
        total = len(read.answers[dataset])
        if total > len(answers):
            yield (
                f"{dataset}: {total - len(answers)} of {total} answers are left out; they have no finite "
                "activations at a layer that most answers can be read at."
            )
    datasets: dict[str, list[str]] = defaultdict(list)
    kinds = dict.fromkeys(AnswerView(view.part, view.variance, 0) for view in views)
    for view, dataset in product(kinds, kept.answers):
        readings = kept.readings(dataset, view)
        for tap, layers in _unreadable_layers(readings, kept.taps).items():
            datasets[f"{layers} of tap {tap} cannot be read ({view.variance} variance, part {view.part})"].append(
                dataset
            )
    yield from (f"{list_text(of_place)}: {place}, so no score is given." for place, of_place in datasets.items())


def _unreadable_layers(readings: Mapping[str, Readings], taps: Sequence[str]) -> dict[str, str]:
    """Return the layers that cannot be read in words, by tap; taps at which all layers can be read are left out."""
    unreadable = {tap: np.flatnonzero(~readings[tap].readable).tolist() for tap in taps if tap in readings}
    return {
        tap: "all layers" if tap not in readings else layers_text(unreadable[tap])
        for tap in taps
        if unreadable.get(tap, True)
    }


def _why_none(test: LayerTestResult) -> str:
    if test.least_p > test.level:
        return not_shown("so few questions or randomisations", test.least_p)
    if not test.survives.any():
        return "no contrast survives the adjustment for the length of answers"
    highest = test.propensity[test.survives].max()
    return f"{test.survives.sum()} contrasts are significant, but their propensity is at most {highest:.2f}"
