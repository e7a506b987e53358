"""The rows of the hallucination job's tables, and what they come to."""

from collections.abc import Iterator, Sequence

import numpy as np

from stratoscope.pipelines.hallucination.analysis import Contrast, Separated
from stratoscope.pipelines.hallucination.load_statistics import Observed
from stratoscope.results import Storage, read_table
from stratoscope.scoring import LayerTestResult

Rows = Iterator[tuple[object, ...]]


def score_rows(contrast: Contrast, observed: Observed) -> Rows:
    """Yield a contrast's rows of `hallucination_scores`, tap by tap, in order of layers."""
    view = contrast.view
    for found in contrast.findings:
        threshold = observed.thresholds[found.tap][view.threshold]
        for layer, direction in enumerate(found.direction):
            yield (
                contrast.dataset,
                layer,
                found.tap,
                view.part,
                contrast.definition,
                view.variance,
                threshold.kind,
                threshold.epsilon,
                contrast.num_questions,
                found.hsav[layer],
                found.hss[layer],
                found.eavss[layer],
                _null(found.adjusted[layer]),
                direction,
                found.propensity[layer],
                _null(found.low[layer]),
                _null(found.high[layer]),
                _null(found.null[layer]),
                _null(found.p_value[layer]),
                _null(found.p_value_adjusted[layer]),
                bool(found.flagged[layer]),
            )


def separation_rows(dataset: str, found: Sequence[Separated], confidence: float) -> Rows:
    """Yield the rows of `separation`."""
    for s in found:
        low, high = s.auroc.interval(confidence)
        over = s.over_random
        over_low, over_high = over.interval(confidence) if over else (None, None)
        yield (
            dataset,
            s.tap,
            s.features,
            s.layer,
            s.num_layers,
            s.auroc.value,
            low,
            high,
            over.value if over else None,
            over_low,
            over_high,
            over.detectable(1 - confidence) if over else None,
            s.share_of_random_below,
        )


def rate_rows(storage: Storage, confidence: float) -> Rows:
    """Yield how often the model's own answers are wrong, with Wilson's interval; nothing if it wrote none."""
    from scipy.stats import binomtest

    if not storage.exists("generated.parquet"):
        return
    rows = read_table(storage, "generated").to_pylist()
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        answered = [row for row in rows if row["dataset"] == dataset and row["text"]]
        wrong = sum(not row["right"] for row in answered)
        if not answered:
            yield dataset, 0, 0, None, None, None
            continue
        interval = binomtest(wrong, len(answered)).proportion_ci(confidence, method="wilson")
        yield dataset, len(answered), wrong, wrong / len(answered), float(interval.low), float(interval.high)


def verdicts(storage: Storage, first: Sequence[Contrast]) -> Iterator[str]:
    """Yield one sentence for each data set and tap: what is flagged, and whether that beats random layers."""
    rows = read_table(storage, "separation").to_pylist()
    flagged = {(r["dataset"], r["tap"]): r for r in rows if r["features"] == "flagged"}
    random = {(r["dataset"], r["tap"]): r for r in rows if r["features"] == "random"}
    for contrast in first:
        for found in contrast.findings:
            layers = np.flatnonzero(found.flagged)
            key = contrast.dataset, found.tap
            if not len(layers):
                yield f"{contrast.dataset}, tap {found.tap}: no layer is flagged ({_why_none(found)})."
                continue
            row, over = flagged[key], flagged[key]["over_random"]
            low, high = row["over_random_low"], row["over_random_high"]
            said = against_random(low, high, row["detectable"])
            yield (
                f"{contrast.dataset}, tap {found.tap}: layers {' '.join(map(str, layers))} are flagged; held out, "
                f"flagged layers tell wrong answers from right ones with AUROC {row['auroc']:.3f}, "
                f"{over:+.3f} ({low:+.3f} to {high:+.3f}) against {random[key]['auroc']:.3f}: {said}."
            )


def against_random(low: float, high: float, detectable: float) -> str:
    """Say in words what an interval of the difference to random sets means."""
    if low > 0:
        return "better than random sets of as many layers"
    if high < 0:
        return "worse than random sets of as many layers"
    return f"no better than random sets of as many layers; this data could show {detectable:.3f}"


def _why_none(found: LayerTestResult) -> str:
    if not found.survives.any():
        return "no contrast survives the adjustment for the length of answers"
    most = found.propensity[found.survives].max()
    return f"{found.survives.sum()} contrasts are no chance, but their propensity is at most {most:.2f}"


def _null(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
