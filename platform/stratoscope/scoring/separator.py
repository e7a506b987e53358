"""How well sets of layers separate a data set's answers: flagged layers beside random ones and other baselines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.answers import AnswerSet, AnswerView
from stratoscope.scoring.definitions import Definition, Readings
from stratoscope.scoring.layer_tests import Inference, TooFewQuestionsError, find_layers
from stratoscope.scoring.separation import (
    Array,
    Auroc,
    Folds,
    Layers,
    Learner,
    auroc,
    features,
    joined,
    mean_auroc,
    random_layers,
    select_by_fold,
    separate,
)


@dataclass(frozen=True)
class SeparationSettings:
    """Settings of the separation of answers."""

    folds: int = 5
    random_sets: int = 200
    """Number of random sets of layers."""
    c: float = 1.0
    """Inverse strength of the L2 penalty."""
    seed: int = 0
    """Seed of folds and random sets."""


@dataclass(frozen=True, eq=False)
class SeparationResult:
    """How well some features separate answers."""

    features: str
    tap: str | None
    layer: int | None
    num_layers: float | None
    """Number of layers, averaged over folds where these differ."""
    auroc: Auroc
    over_random: Auroc | None = None
    """Difference to the mean of the random sets."""
    share_of_random_below: float | None = None


@dataclass(frozen=True, eq=False)
class RandomComparison:
    """Sets of layers beside random sets of the same sizes."""

    auroc: Auroc
    random: Sequence[Auroc]

    @property
    def difference(self) -> Auroc:
        """Difference to the mean of the random sets."""
        # The mean of the differences is exactly 0 where all sets are the same.
        return mean_auroc([self.auroc.minus(random) for random in self.random])

    @property
    def share_below(self) -> float:
        """Share of the random sets that perform worse."""
        return float(np.mean([random.value < self.auroc.value for random in self.random]))


class Separator:
    """Separates the wrong answers of a data set from its right ones.

    Args:
        answers: the answers.
        settings: folds, random sets and penalty.
    """

    def __init__(self, answers: AnswerSet, settings: SeparationSettings) -> None:
        self.answers, self.settings = answers, settings
        self.labels = answers.labels
        self.folds = Folds.draw(self.labels.num_questions, settings.folds, settings.seed)
        self.learner = Learner(settings.c)
        self._random_scores: dict[tuple[object, ...], list[Array]] = {}
        """Scores of a fold's held-out answers by each random set of a size."""

    def flag_layers(
        self, definition: Definition, readings: Mapping[str, Readings], inference: Inference
    ) -> dict[str, list[Layers]]:
        """Return the layers that are flagged on the training questions of each fold, by tap."""
        flagged: dict[str, list[Layers]] = {tap: [] for tap in readings}
        for fold in range(self.folds.num_folds):
            by_tap = self._flag_inside(definition, readings, inference, self.folds.fold_of_question != fold)
            for tap, layers in by_tap.items():
                flagged[tap].append(layers)
        return flagged

    def _flag_inside(
        self,
        definition: Definition,
        readings: Mapping[str, Readings],
        inference: Inference,
        questions: NDArray[np.bool_],
    ) -> dict[str, Layers]:
        labels, answers = self.labels.select_questions(questions)
        inside = {tap: reading[answers] for tap, reading in readings.items()}
        try:
            results = find_layers(definition, inside, labels, inference)
        except TooFewQuestionsError:  # nothing is flagged
            return dict.fromkeys(readings, ())
        return {result.tap: tuple(np.flatnonzero(result.flagged).tolist()) for result in results}

    def evaluate(self, table: Array, sets: Sequence[Layers]) -> Auroc:
        """Return how well the layers of each fold separate its held-out answers.

        Args:
            table: features, shape (N, L, K).
            sets: one per fold.
        """
        return separate(table, self.labels, self.folds, sets, self.learner)

    def evaluate_random(self, key: tuple[object, ...], table: Array, sizes: Sequence[int]) -> list[Auroc]:
        """Return how well random sets separate the answers.

        Args:
            key: name of the features; scores of random sets are cached under it.
            table: features, shape (N, L, K); NaN in layers that cannot be read.
            sizes: number of layers, one per fold.
        """
        by_fold = [self._score_random(key, table, fold, size) for fold, size in enumerate(sizes)]
        return [auroc(joined(parts, self.labels, self.folds), self.labels) for parts in zip(*by_fold, strict=True)]

    def _score_random(self, key: tuple[object, ...], table: Array, fold: int, size: int) -> list[Array]:
        cached = (*key, fold, size)
        if cached not in self._random_scores:
            held_out = self.folds.holds_out(fold, self.labels)
            layers = np.flatnonzero(~np.isnan(table).any(axis=(0, 2)))
            sets = [
                tuple(layers[list(chosen)].tolist())
                for chosen in random_layers(len(layers), size, self.settings.random_sets, self.settings.seed)
            ]
            self._random_scores[cached] = list(self.learner.predict_many(table, self.labels.wrong, held_out, sets))
        return self._random_scores[cached]

    def compare_with_random(self, key: tuple[object, ...], table: Array, sets: Sequence[Layers]) -> RandomComparison:
        """Compare sets, one per fold, with random ones of the same sizes."""
        random = self.evaluate_random(key, table, [len(layers) for layers in sets])
        return RandomComparison(self.evaluate(table, sets), random)

    def evaluate_baselines(self) -> Iterator[SeparationResult]:
        """Yield the results without activations: by the length of answers, and by their likelihood."""
        tokens, likelihood = self.labels.tokens.astype(float), self.answers.log_likelihood
        every_fold: list[Layers] = [(0,)] * self.folds.num_folds
        for name, columns in (
            ("answer_length", [np.log(tokens)]),
            ("likelihood", [likelihood, likelihood / tokens]),
        ):
            table = np.stack(columns, axis=1)[:, None, :]
            yield SeparationResult(name, None, None, None, self.evaluate(table, every_fold))

    def evaluate_tap(
        self, tap: str, readings: Readings, flagged: Sequence[Layers], view: AnswerView
    ) -> Iterator[SeparationResult]:
        """Yield the results of a tap: flagged layers, random ones, those of the highest AVSS, all, and each.

        Layers that cannot be read are in none of these sets.
        """
        table, key = features(readings), (tap, view)
        size = float(np.mean([len(layers) for layers in flagged]))
        comparison = self.compare_with_random(key, table, flagged)
        yield _compared("flagged", tap, size, comparison)
        yield SeparationResult("random", tap, None, size, mean_auroc(comparison.random))
        by_avss = select_by_fold(partial(self._highest_avss, readings, flagged), self.folds)
        yield _compared("avss", tap, size, self.compare_with_random(key, table, by_avss))
        layers = tuple(np.flatnonzero(readings.readable).tolist())
        yield SeparationResult("all", tap, None, len(layers), self.evaluate(table, [layers] * self.folds.num_folds))
        for layer in layers:
            sets: list[Layers] = [(layer,)] * self.folds.num_folds
            yield SeparationResult("layer", tap, layer, 1, self.evaluate(table, sets))

    def _highest_avss(self, readings: Readings, flagged: Sequence[Layers], questions: NDArray[np.bool_]) -> Layers:
        """Return as many layers as are flagged in a fold, those of the highest mean log AVSS."""
        fold = int(self.folds.fold_of_question[~questions][0])
        inside = readings.log_avss[questions[self.labels.question]].mean(axis=0)
        return tuple(sorted(np.argsort(-inside, kind="stable")[: len(flagged[fold])].tolist()))


def _compared(name: str, tap: str, size: float, comparison: RandomComparison) -> SeparationResult:
    return SeparationResult(name, tap, None, size, comparison.auroc, comparison.difference, comparison.share_below)


def separate_answers(
    answers: AnswerSet,
    readings: Mapping[str, Readings],
    view: AnswerView,
    definition: Definition,
    *,
    settings: SeparationSettings,
    inference: Inference,
) -> tuple[list[SeparationResult], dict[str, list[Auroc]]]:
    """Separate a data set's answers by the layers that a definition flags, and by all baselines.

    Args:
        answers: the answers.
        readings: their readings, by tap.
        view: the view that the readings were taken in.
        definition: the definition that flags layers.
        settings: folds, random sets and penalty.
        inference: settings of the tests that flag layers.

    Returns:
        The results, and the AUROC of each random set by tap.
    """
    separator = Separator(answers, settings)
    flagged = separator.flag_layers(definition, readings, inference)
    results = list(separator.evaluate_baselines())
    random = {}
    for tap, reading in readings.items():
        results += separator.evaluate_tap(tap, reading, flagged[tap], view)
        sizes = [len(layers) for layers in flagged[tap]]
        random[tap] = separator.evaluate_random((tap, view), features(reading), sizes)
    return results, random
