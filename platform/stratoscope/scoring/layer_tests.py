"""Layer tests: how a layer's activations differ between wrong and right answers, and whether chance can explain it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.answers import Labels
from stratoscope.scoring.definitions import Array, Definition, Parts, Readings
from stratoscope.statistics import Design, MaxT, max_t

Direction = Literal["more", "less", "none"]
FEWEST_QUESTIONS = 10
"""Minimum number of questions of a paired test, or of each group: fewer allow too few randomisations."""


class TooFewQuestionsError(ValueError):
    """There are too few questions for a test."""


@dataclass(frozen=True)
class Inference:
    """Settings of the layer tests."""

    draws: int = 9999
    level: float = 0.05
    """Probability that any layer is flagged where no layer has an effect."""
    threshold: float = 1.0
    """Propensity above which a layer is flagged."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class LayerTestResult:
    """Results of one definition at one tap, by layer; all arrays have shape (L,).

    All values of a layer that cannot be read are NaN, except that its propensity is 0.
    """

    tap: str
    hsav: Array
    hss: Array
    eavss: Array
    low: Array
    """Lower ends of simultaneous intervals for EAVSS; NaN where the definition cannot be tested."""
    high: Array
    """Upper ends of these intervals; NaN likewise."""
    adjusted: Array
    """EAVSS adjusted for the length of answers; NaN likewise."""
    null: Array
    """Half-width of the band within which all layers of all taps stay in most randomisations; NaN likewise, and where
    the band is not even around 0, as with the definition `ratio`."""
    propensity: Array
    """|EAVSS| in multiples of its mean over layers."""
    p_value: Array
    """p-values, adjusted for all layers and taps; NaN likewise."""
    p_value_adjusted: Array
    """p-values of the length-adjusted contrast, adjusted likewise."""
    survives: NDArray[np.bool_]
    """Whether the length-adjusted contrast is significant; true where the definition cannot be tested."""
    flagged: NDArray[np.bool_]
    level: float
    """Level of the tests."""
    least_p: float
    """Smallest p-value that this number of questions and draws allows; 0 where the definition cannot be tested."""

    @property
    def direction(self) -> list[Direction]:
        """Whether wrong answers have higher or lower AVSS than right ones."""
        return ["more" if v > 0 else "less" if v < 0 else "none" for v in self.eavss]


def contrast(values: Array, labels: Labels) -> Array:
    """Return each question's mean over wrong answers less that over right ones or, grouped, its own values.

    Args:
        values: values of the answers, shape (N, K).
        labels: labels of the answers; all questions have answers of both kinds or, grouped, one answer.

    Returns:
        Shape (Q, K).
    """
    if labels.design == "grouped":
        return values[np.argsort(labels.question, kind="stable")]
    wrong, right = (_means(values, labels, members) for members in (labels.wrong, ~labels.wrong))
    # Means of equal values may differ in their last digits.
    return np.asarray(np.where(np.isclose(wrong, right, rtol=1e-12, atol=0), 0.0, wrong - right))


def _means(values: Array, labels: Labels, members: NDArray[np.bool_]) -> Array:
    order = np.argsort(labels.question[members], kind="stable")
    question = labels.question[members][order]
    starts = np.flatnonzero(np.diff(question, prepend=-1))
    counts = np.diff(np.append(starts, len(question)))
    means: Array = np.add.reduceat(values[members][order], starts, axis=0) / counts[:, None]
    return means


def _kind_means(values: Array, labels: Labels) -> Array:
    """Return for each answer the mean over questions of the answers of its kind, right or wrong, shape (N, K)."""
    wrong, right = (_means(values, labels, members).mean(axis=0) for members in (labels.wrong, ~labels.wrong))
    return np.asarray(np.where(labels.wrong[:, None], wrong, right))


def length_covariates(labels: Labels) -> Array:
    """Return the covariates of an answer's length: its logarithm, the square of that, and its inverse, shape (N, 3)."""
    log = np.log(labels.tokens.astype(np.float64))
    return np.column_stack([log, log**2, 1 / labels.tokens])


def find_layers(
    definition: Definition, readings: dict[str, Readings], labels: Labels, inference: Inference
) -> list[LayerTestResult]:
    """Contrast wrong and right answers at every layer, and flag the layers with a significant contrast.

    The unit of randomisation is the question with all its answers. The paired design flips the signs of the questions'
    contrasts, the grouped one permutes the groups. p-values and intervals hold for all layers and taps at once. A layer
    is flagged where its contrast stays significant after the adjustment for length and its propensity exceeds the
    threshold; a definition that cannot be tested flags by the threshold alone. A layer that cannot be read in all
    answers takes no part.

    Args:
        definition: the definition of EAVSS.
        readings: readings by tap, all of the same answers; some layer can be read.
        labels: labels of these answers.
        inference: settings of the tests.

    Raises:
        TooFewQuestionsError: there are fewer questions, or fewer of a group, than `FEWEST_QUESTIONS`.
    """
    check_enough(labels)
    labels, answers = labels.select_questions(labels.testable)
    means = partial(_kind_means, labels=labels)
    parts = {tap: definition.parts(reading[answers].masked(), means) for tap, reading in readings.items()}
    if not definition.contrasts:
        return [_describe_wrong(tap, part, labels, inference.threshold) for tap, part in parts.items()]
    x = _group(labels)
    y = np.concatenate([contrast(variance - sparse, labels) for variance, sparse in parts.values()], axis=1)
    lengths = contrast(length_covariates(labels), labels)
    tests = _JointTest(
        _test(y, x, lengths[:, :0], labels.design, inference),
        _test(y, x, lengths, labels.design, inference),
        definition,
        inference.threshold,
    )
    results, start = [], 0
    for tap, part in parts.items():
        layers = slice(start, start + part[0].shape[1])
        start = layers.stop
        results.append(tests.result(tap, part, labels, layers))
    return results


def check_enough(labels: Labels) -> None:
    """Check that there are enough questions for a test.

    Raises:
        TooFewQuestionsError: there are too few.
    """
    testable = labels.testable
    if labels.design == "paired":
        if testable.sum() < FEWEST_QUESTIONS:
            raise TooFewQuestionsError(
                f"{testable.sum()} questions have a right and a wrong answer; at least {FEWEST_QUESTIONS}"
            )
        return
    tested, _ = labels.select_questions(testable)
    wrong = int(tested.wrong.sum())
    right = len(tested.wrong) - wrong
    if min(wrong, right) < FEWEST_QUESTIONS:
        raise TooFewQuestionsError(f"{right} answers are right and {wrong} wrong; at least {FEWEST_QUESTIONS} of each")


def _group(labels: Labels) -> Array:
    if labels.design == "paired":
        return np.ones(labels.num_questions)
    return labels.wrong[np.argsort(labels.question, kind="stable")].astype(np.float64)


def _effect(values: Array, labels: Labels) -> Array:
    """Return the mean contrast, shape (L,)."""
    y = contrast(values, labels)
    if labels.design == "paired":
        return np.asarray(y.mean(axis=0))
    wrong = _group(labels) == 1
    return np.asarray(y[wrong].mean(axis=0) - y[~wrong].mean(axis=0))


def _test(y: Array, x: Array, lengths: Array, design: Design, inference: Inference) -> MaxT:
    """Test the columns of y without NaN; the others have NaN results."""
    known = np.asarray(~np.isnan(y).any(axis=0))
    test = max_t(y[:, known], x, lengths, design, draws=inference.draws, level=inference.level, seed=inference.seed)

    def of_all(values: Array) -> Array:
        filled = np.full(len(known), np.nan)
        filled[known] = values
        return filled

    return replace(
        test,
        effect=of_all(test.effect),
        error=of_all(test.error),
        spread=of_all(test.spread),
        statistic=of_all(test.statistic),
        p_value=of_all(test.p_value),
    )


@dataclass(frozen=True)
class _JointTest:
    """The test of all layers and taps together."""

    plain: MaxT
    adjusted: MaxT
    definition: Definition
    threshold: float

    def result(self, tap: str, parts: Parts, labels: Labels, layers: slice) -> LayerTestResult:
        """Return the result of a tap; `layers` selects its layers among all tested ones."""
        variance, sparse = parts
        hsav, hss = _effect(variance, labels), -_effect(sparse, labels)
        plain, adjusted = self.plain, self.adjusted
        unit = np.ones(len(hsav))
        if self.definition.unit != "none":
            over_answers = self.definition.unit == "answers"
            deviation = (variance - sparse).std(axis=0) if over_answers else plain.spread[layers]
            unit = np.where(deviation > 0, deviation, 1.0)

        def report(values: Array) -> Array:
            return np.asarray(self.definition.transform(values / unit))

        propensity = multiples(report(plain.effect[layers]))
        p_adjusted = adjusted.p_value[layers]
        survives = p_adjusted <= adjusted.level
        return LayerTestResult(
            tap=tap,
            hsav=report(hsav),
            hss=report(hss),
            eavss=report(plain.effect[layers]),
            low=report(plain.low[layers]),
            high=report(plain.high[layers]),
            adjusted=report(adjusted.effect[layers]),
            null=_half_width(plain.critical * plain.error[layers], report),
            propensity=propensity,
            p_value=plain.p_value[layers],
            p_value_adjusted=p_adjusted,
            survives=survives,
            flagged=survives & (propensity > self.threshold),
            level=adjusted.level,
            least_p=adjusted.least_p,
        )


def _half_width(half_width: Array, report: Callable[[Array], Array]) -> Array:
    """Return the half-width of a band as reported; NaN where the transformation makes the band uneven around 0."""
    upper, lower = report(half_width), report(-half_width)
    return np.where(np.isclose(upper, -lower), upper, np.nan)


def _describe_wrong(tap: str, parts: Parts, labels: Labels, threshold: float) -> LayerTestResult:
    """Describe wrong answers alone, without a test."""
    variance, sparse = (part[labels.wrong].mean(axis=0) for part in parts)
    hsav, hss = variance - np.nanmean(variance), np.nanmean(sparse) - sparse
    untested = np.full(len(hsav), np.nan)
    propensity = multiples(hsav + hss)
    return LayerTestResult(
        tap,
        hsav,
        hss,
        hsav + hss,
        low=untested,
        high=untested,
        adjusted=untested,
        null=untested,
        propensity=propensity,
        p_value=untested,
        p_value_adjusted=untested,
        survives=np.ones(len(hsav), bool),
        flagged=propensity > threshold,
        level=1.0,
        least_p=0.0,
    )


def multiples(eavss: Array) -> Array:
    """Return |EAVSS| in multiples of its mean over layers, shape (L,).

    It is 0 for layers without EAVSS, and everywhere if EAVSS is 0 throughout.
    """
    size, known = np.nan_to_num(np.abs(eavss)), ~np.isnan(eavss)
    mean = size[known].mean() if known.any() else 0.0
    return np.asarray(size / mean if mean > 0 else np.zeros_like(size))
