"""How the activations of a layer differ between wrong and right answers, and whether that can be chance."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.definitions import Array, Definition, Parts, Readings
from stratoscope.statistics import Design, MaxT, max_t

Direction = Literal["more", "less", "none"]
FEWEST_QUESTIONS = 10
"""Of a paired test, or of each group: with fewer there are too few randomisations for a small p-value."""


class TooFewQuestionsError(ValueError):
    """There are too few questions for a test."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Whose the answers are. Shapes: N answers of Q questions."""

    question: NDArray[np.int64]
    """Number of each answer's question, from 0 to Q - 1, shape (N,)."""
    wrong: NDArray[np.bool_]
    """Shape (N,)."""
    tokens: NDArray[np.int64]
    """Length of each answer, shape (N,)."""

    @property
    def num_questions(self) -> int:
        """Number of questions."""
        return int(self.question.max()) + 1 if len(self.question) else 0

    @property
    def design(self) -> Design:
        """Paired where questions have answers of both kinds; grouped where none has."""
        return "paired" if self.contrasted.any() else "grouped"

    @property
    def contrasted(self) -> NDArray[np.bool_]:
        """Whether a question has answers of both kinds, shape (Q,)."""
        wrong, right = (np.bincount(self.question[m], minlength=self.num_questions) for m in (self.wrong, ~self.wrong))
        return np.asarray((wrong > 0) & (right > 0))

    def of_questions(self, chosen: NDArray[np.bool_]) -> tuple["Labels", NDArray[np.bool_]]:
        """Keep some questions, shape (Q,); return the labels and which answers are left, shape (N,)."""
        kept = chosen[self.question]
        renumbered = np.cumsum(chosen) - 1
        return Labels(renumbered[self.question[kept]], self.wrong[kept], self.tokens[kept]), kept


@dataclass(frozen=True)
class Inference:
    """How contrasts are tested."""

    draws: int = 9999
    level: float = 0.05
    """Chance that anything is flagged where nothing is to be found."""
    threshold: float = 1.0
    """Propensity above which a layer is flagged."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class LayerTestResult:
    """What a definition finds at a tap, by layer; all arrays have shape (L,)."""

    tap: str
    hsav: Array
    hss: Array
    eavss: Array
    low: Array
    """Lower ends of simultaneous intervals for EAVSS; NaN where it cannot be tested."""
    high: Array
    adjusted: Array
    """EAVSS without what the length of answers explains; NaN likewise."""
    null: Array
    """Half the width of the band within which all layers of all taps stay in most randomisations; NaN likewise."""
    propensity: Array
    """|EAVSS| in multiples of its mean over layers."""
    p_value: Array
    """Adjusted for all layers and taps; NaN likewise."""
    p_value_adjusted: Array
    """The same of the length-adjusted contrast."""
    survives: NDArray[np.bool_]
    """Whether the length-adjusted contrast cannot be chance; true where there is nothing to test."""
    flagged: NDArray[np.bool_]

    @property
    def direction(self) -> list[Direction]:
        """Whether wrong answers have more AVSS, or less."""
        return ["more" if v > 0 else "less" if v < 0 else "none" for v in self.eavss]


def contrast(values: Array, labels: Labels) -> Array:
    """Return each question's mean over wrong answers less that over right ones or, grouped, its own values.

    Args:
        values: shape (N, K).
        labels: of questions that all have answers of both kinds or, grouped, one answer.

    Returns:
        Shape (Q, K).
    """
    if labels.design == "grouped":
        return values[np.argsort(labels.question, kind="stable")]
    wrong, right = (_means(values, labels, members) for members in (labels.wrong, ~labels.wrong))
    return wrong - right


def _means(values: Array, labels: Labels, members: NDArray[np.bool_]) -> Array:
    order = np.argsort(labels.question[members], kind="stable")
    question = labels.question[members][order]
    starts = np.flatnonzero(np.diff(question, prepend=-1))
    counts = np.diff(np.append(starts, len(question)))
    means: Array = np.add.reduceat(values[members][order], starts, axis=0) / counts[:, None]
    return means


def usable(labels: Labels) -> NDArray[np.bool_]:
    """Return which questions a test can use, shape (Q,)."""
    return labels.contrasted if labels.design == "paired" else np.bincount(labels.question) == 1


def length_covariates(labels: Labels) -> Array:
    """Return what is adjusted for: the logarithm of an answer's length, its square and its inverse, shape (N, 3)."""
    log = np.log(labels.tokens.astype(np.float64))
    return np.column_stack([log, log**2, 1 / labels.tokens])


def find_layers(
    definition: Definition, readings: dict[str, Readings], labels: Labels, inference: Inference
) -> list[LayerTestResult]:
    """Contrast wrong and right answers at every layer, and flag the layers where the contrast cannot be chance.

    Questions are the unit: all answers to one move together. In the paired design the signs of their contrasts are
    flipped, in the grouped one the groups are dealt anew; p-values and intervals hold for all layers and taps at once.
    A layer is flagged where the contrast survives the adjustment for length and its propensity exceeds the threshold;
    where there is nothing to test, by the threshold alone.

    Args:
        definition: what is contrasted.
        readings: by tap, all of the same answers.
        labels: of these answers.
        inference: how to test.

    Raises:
        TooFewQuestionsError: there are fewer questions, or fewer of a group, than `FEWEST_QUESTIONS`.
    """
    chosen = usable(labels)
    check_enough(labels)
    labels, answers = labels.of_questions(chosen)
    readings = {tap: seen[answers] for tap, seen in readings.items()}
    parts = {tap: definition.parts(seen, labels.wrong) for tap, seen in readings.items()}
    if not definition.contrasts:
        return [_alone(tap, part, labels, inference.threshold) for tap, part in parts.items()]
    x = _group(labels)
    y = np.concatenate([contrast(variance - sparse, labels) for variance, sparse in parts.values()], axis=1)
    lengths = contrast(length_covariates(labels), labels)
    tested = _Tested(
        _test(y, x, lengths[:, :0], labels.design, inference),
        _test(y, x, lengths, labels.design, inference),
        definition,
        inference.threshold,
        len(x),
    )
    found, start = [], 0
    for tap, part in parts.items():
        layers = slice(start, start + part[0].shape[1])
        start = layers.stop
        found.append(tested.findings(tap, part, labels, layers))
    return found


def check_enough(labels: Labels) -> None:
    """See that there are enough questions for a test.

    Raises:
        TooFewQuestionsError: there are not.
    """
    chosen = usable(labels)
    if labels.design == "paired":
        if chosen.sum() < FEWEST_QUESTIONS:
            raise TooFewQuestionsError(
                f"{chosen.sum()} questions have a right and a wrong answer; at least {FEWEST_QUESTIONS}"
            )
        return
    of_questions, _ = labels.of_questions(chosen)
    wrong = int(of_questions.wrong.sum())
    right = len(of_questions.wrong) - wrong
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
    return max_t(y, x, lengths, design, draws=inference.draws, level=inference.level, seed=inference.seed)


@dataclass(frozen=True)
class _Tested:
    """All taps, tested together."""

    plain: MaxT
    adjusted: MaxT
    definition: Definition
    threshold: float
    num_questions: int

    def findings(self, tap: str, parts: Parts, labels: Labels, layers: slice) -> LayerTestResult:
        """Return what was found at a tap, whose layers stand in `layers` of the tests."""
        variance, sparse = parts
        hsav, hss, spread = _effect(variance, labels), -_effect(sparse, labels), (variance - sparse).std(axis=0)
        plain, adjusted = self.plain, self.adjusted
        unit = np.ones_like(spread)
        if self.definition.unit != "none":
            over_questions = plain.error[layers] * np.sqrt(self.num_questions)
            deviation = spread if self.definition.unit == "answers" else over_questions
            unit = np.where(deviation > 0, deviation, 1.0)

        def report(values: Array) -> Array:
            return np.asarray(self.definition.shown(values / unit))

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
            null=report(plain.critical * plain.error[layers]),
            propensity=propensity,
            p_value=plain.p_value[layers],
            p_value_adjusted=p_adjusted,
            survives=survives,
            flagged=survives & (propensity > self.threshold),
        )


def _alone(tap: str, parts: Parts, labels: Labels, threshold: float) -> LayerTestResult:
    """Describe wrong answers without right ones."""
    variance, sparse = (part[labels.wrong].mean(axis=0) for part in parts)
    hsav, hss = variance - variance.mean(), sparse.mean() - sparse
    nothing = np.full(len(hsav), np.nan)
    propensity = multiples(hsav + hss)
    return LayerTestResult(
        tap,
        hsav,
        hss,
        hsav + hss,
        low=nothing,
        high=nothing,
        adjusted=nothing,
        null=nothing,
        propensity=propensity,
        p_value=nothing,
        p_value_adjusted=nothing,
        survives=np.ones(len(hsav), bool),
        flagged=propensity > threshold,
    )


def multiples(eavss: Array) -> Array:
    """Return |EAVSS| in multiples of its mean over layers, shape (L,); zeros where all of it is 0."""
    size = np.abs(eavss)
    mean = size.mean()
    return np.asarray(size / mean if mean > 0 else np.zeros_like(size))
