"""From the readings of answers to flagged layers, and to how well they tell wrong answers from right ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stratoscope.pipelines.hallucination.config import ContrastsSection, SeparationSection
from stratoscope.pipelines.hallucination.load_statistics import AnswerTable, Observed, View
from stratoscope.scoring import (
    DEFINITIONS,
    Definition,
    Inference,
    Labels,
    LayerTestResult,
    Readings,
    TooFewQuestionsError,
    find_layers,
)
from stratoscope.scoring.separation import (
    Auroc,
    Folds,
    Layers,
    Learner,
    auroc,
    chosen_inside,
    features,
    joined,
    mean_auroc,
    random_layers,
    separate,
)
from stratoscope.statistics import spearman


@dataclass(frozen=True, eq=False)
class Contrast:
    """What one definition finds in one data set, seen in one way."""

    dataset: str
    view: View
    definition: str
    num_questions: int
    findings: tuple[LayerTestResult, ...]
    """By tap."""


def contrasts(observed: Observed, section: ContrastsSection, seed: int) -> Iterator[Contrast]:
    """Yield every combination of data set, view and definition; the first of a data set is the one it is flagged by."""
    inference = section.to_inference(seed)
    for dataset, answers in observed.answers.items():
        for view in views(section):
            readings = observed.readings(dataset, view)
            for name in section.definitions:
                found = find_layers(DEFINITIONS[name], readings, answers.labels, inference)
                yield Contrast(dataset, view, name, _num_used(answers.labels), tuple(found))


def views(section: ContrastsSection) -> list[View]:
    """Return every way to look at the answers that is asked for."""
    return [
        View(part, variance, threshold)
        for part in section.parts
        for variance in section.variance
        for threshold in range(len(section.thresholds))
    ]


def _num_used(labels: Labels) -> int:
    return int(labels.contrasted.sum()) if labels.design == "paired" else labels.num_questions


@dataclass(frozen=True, eq=False)
class Separated:
    """How well some statistics tell answers apart."""

    features: str
    tap: str | None
    layer: int | None
    num_layers: float | None
    """Mean over folds, where these choose."""
    auroc: Auroc
    over_random: Auroc | None = None
    """Less the mean of the random sets."""
    share_of_random_below: float | None = None


class Separator:
    """Separates the answers of one data set.

    Args:
        answers: the answers.
        section: how.
        seed: of folds and random sets.
    """

    def __init__(self, answers: AnswerTable, section: SeparationSection, seed: int) -> None:
        self.answers, self.section, self.seed = answers, section, seed
        self.labels = answers.labels
        self.folds = Folds.draw(self.labels.num_questions, section.folds, seed)
        self.learner = Learner(section.c)
        self._random: dict[tuple[object, ...], list[NDArray[np.float64]]] = {}
        """Scores of the held-out answers of a fold by each random set of a size."""

    def flagged(
        self, definition: Definition, readings: dict[str, Readings], inference: Inference
    ) -> dict[str, list[Layers]]:
        """Return the layers flagged inside the training questions of each fold, by tap."""
        found: dict[str, list[Layers]] = {tap: [] for tap in readings}
        for fold in range(self.folds.num_folds):
            chosen = self._inside(definition, readings, inference, self.folds.of_question != fold)
            for tap, layers in chosen.items():
                found[tap].append(layers)
        return found

    def _inside(
        self,
        definition: Definition,
        readings: dict[str, Readings],
        inference: Inference,
        questions: NDArray[np.bool_],
    ) -> dict[str, Layers]:
        labels, kept = self.labels.of_questions(questions)
        inside = {tap: seen[kept] for tap, seen in readings.items()}
        try:
            found = find_layers(definition, inside, labels, inference)
        except TooFewQuestionsError:  # nothing is flagged
            return dict.fromkeys(readings, ())
        return {f.tap: tuple(np.flatnonzero(f.flagged).tolist()) for f in found}

    def of_sets(self, table: NDArray[np.float64], sets: Sequence[Layers]) -> Auroc:
        """Return how well the layers of each fold tell its held-out answers apart."""
        return separate(table, self.labels, self.folds, sets, self.learner)

    def of_random(self, key: tuple[object, ...], table: NDArray[np.float64], sizes: Sequence[int]) -> list[Auroc]:
        """Return the same of random sets of these sizes, one per fold.

        Args:
            key: names the features; what was computed of a fold and a size is kept under it.
            table: features, shape (N, L, K).
            sizes: one per fold.
        """
        by_fold = [self._of_random(key, table, fold, size) for fold, size in enumerate(sizes)]
        return [auroc(joined(parts, self.labels, self.folds), self.labels) for parts in zip(*by_fold, strict=True)]

    def _of_random(
        self, key: tuple[object, ...], table: NDArray[np.float64], fold: int, size: int
    ) -> list[NDArray[np.float64]]:
        known = (*key, fold, size)
        if known not in self._random:
            test = self.folds.holds_out(fold, self.labels)
            draws = random_layers(table.shape[1], size, self.section.random_sets, self.seed)
            self._random[known] = list(self.learner.predict_many(table, self.labels.wrong, test, draws))
        return self._random[known]

    def compared(
        self, key: tuple[object, ...], table: NDArray[np.float64], sets: Sequence[Layers]
    ) -> "DefinitionComparison":
        """Compare sets, one per fold, with random ones of the same sizes."""
        own = self.of_sets(table, sets)
        random = self.of_random(key, table, [len(s) for s in sets])
        return DefinitionComparison(own, random)

    def baselines(self) -> Iterator[Separated]:
        """Yield what can be told without activations: from the length of answers, and from their likelihood."""
        tokens, likelihood = self.labels.tokens.astype(float), self.answers.log_likelihood
        everything: Layers = (0,)
        for name, columns in (
            ("answer_length", [np.log(tokens)]),
            ("likelihood", [likelihood, likelihood / tokens]),
        ):
            table = np.stack(columns, axis=1)[:, None, :]
            yield Separated(name, None, None, None, self.of_sets(table, [everything] * self.folds.num_folds))

    def of_tap(self, tap: str, readings: Readings, flagged: Sequence[Layers], view: View) -> Iterator[Separated]:
        """Yield how well the layers of a tap tell answers apart: flagged ones, all, each, and those of most AVSS."""
        table = features(readings)
        num_layers = table.shape[1]
        compared = self.compared((tap, view), table, flagged)
        size = float(np.mean([len(s) for s in flagged]))
        random = mean_auroc(compared.random)
        yield Separated("flagged", tap, None, size, compared.own, compared.difference, compared.share_below)
        yield Separated("random", tap, None, size, random)
        by_avss = chosen_inside(partial(self._most_avss, readings, flagged), self.folds)
        plain = self.compared((tap, view), table, by_avss)
        yield Separated("avss", tap, None, size, plain.own, plain.difference, plain.share_below)
        every = tuple(range(num_layers))
        yield Separated("all", tap, None, num_layers, self.of_sets(table, [every] * self.folds.num_folds))
        for layer in every:
            sets: list[Layers] = [(layer,)] * self.folds.num_folds
            yield Separated("layer", tap, layer, 1, self.of_sets(table, sets))

    def _most_avss(self, readings: Readings, flagged: Sequence[Layers], questions: NDArray[np.bool_]) -> Layers:
        """Return as many layers as are flagged in a fold, those of the highest mean log AVSS."""
        fold = int(self.folds.of_question[~questions][0])
        inside = readings.log_avss[questions[self.labels.question]].mean(axis=0)
        return tuple(sorted(np.argsort(-inside, kind="stable")[: len(flagged[fold])].tolist()))


@dataclass(frozen=True, eq=False)
class DefinitionComparison:
    """Sets of layers beside random ones of the same sizes."""

    own: Auroc
    random: Sequence[Auroc]

    @property
    def difference(self) -> Auroc:
        """Less the mean of the random sets."""
        return self.own.minus(mean_auroc(self.random))

    @property
    def share_below(self) -> float:
        """Share of the random sets that do worse."""
        return float(np.mean([r.value < self.own.value for r in self.random]))


def separated(
    observed: Observed, contrast: Contrast, section: SeparationSection, inference: Inference
) -> tuple[list[Separated], dict[str, list[Auroc]]]:
    """Separate a data set's answers by what a contrast flags, and by everything it is compared with.

    Returns:
        The rows, and the random sets of each tap.
    """
    answers = observed.answers[contrast.dataset]
    separator = Separator(answers, section, inference.seed)
    readings = observed.readings(contrast.dataset, contrast.view)
    flagged = separator.flagged(DEFINITIONS[contrast.definition], readings, inference)
    rows = list(separator.baselines())
    random = {}
    for tap, seen in readings.items():
        rows += separator.of_tap(tap, seen, flagged[tap], contrast.view)
        random[tap] = separator.of_random((tap, contrast.view), features(seen), [len(s) for s in flagged[tap]])
    return rows, random


@dataclass(frozen=True)
class Agreement:
    """How far two data sets agree at a tap."""

    tap: str
    dataset: str
    other: str
    rank_correlation: float
    """Of EAVSS over layers."""
    same_sign: float
    """Share of layers whose EAVSS has the same sign."""
    flagged_by_both: int


def agreements(first: Sequence[Contrast]) -> Iterator[Agreement]:
    """Yield how far each pair of data sets agrees, at each tap.

    Args:
        first: one contrast of each data set, of the same definition and view.
    """
    for i, a in enumerate(first):
        for b in first[i + 1 :]:
            for here, there in zip(a.findings, b.findings, strict=True):
                same = np.sign(here.eavss) == np.sign(there.eavss)
                both = int((here.flagged & there.flagged).sum())
                correlation = spearman(here.eavss, there.eavss)
                yield Agreement(here.tap, a.dataset, b.dataset, correlation, float(same.mean()), both)
