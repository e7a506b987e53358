"""How well statistics of some layers separate wrong answers from right ones, on held-out questions.

A logistic regression on log variance and log sparsity of a set of layers is fitted to each fold's training questions
and predicts its held-out ones. Whatever depends on labels, such as the choice of flagged layers, uses the training
questions alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.answers import Labels
from stratoscope.scoring.definitions import Readings
from stratoscope.scoring.logistic import decision_functions

Array = NDArray[np.float64]
Layers = tuple[int, ...]
LayerSelector = Callable[[NDArray[np.bool_]], Layers]
"""Function from the mask of training questions, shape (Q,), to layers."""


@dataclass(frozen=True, eq=False)
class Auroc:
    """Area under the ROC curve, with the influence of each question on it."""

    value: float
    influence: Array
    """Influence of each question, shape (Q,), with sum 0; its sum over another sample approximates the error there."""

    @property
    def error(self) -> float:
        """Standard error, with questions as the sampling unit."""
        num = len(self.influence)
        return float(np.sqrt((self.influence**2).sum() * num / (num - 1)))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the normal interval."""
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * self.error
        return self.value - half, self.value + half

    def minus(self, other: "Auroc") -> "Auroc":
        """Return the difference to another area over the same questions."""
        return Auroc(self.value - other.value, self.influence - other.influence)

    def detectable(self, level: float = 0.05, power: float = 0.8) -> float | None:
        """Return the smallest true value that a two-sided test against 0 detects with the given power.

        It is None for the difference of two areas that are equal in every question, which shows nothing.
        """
        if not self.influence.any():
            return None
        normal = NormalDist()
        return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * self.error


@dataclass(frozen=True)
class Folds:
    """Folds of questions."""

    fold_of_question: NDArray[np.int64]
    """Fold that holds out each question, shape (Q,)."""
    num_folds: int

    @classmethod
    def draw(cls, num_questions: int, num_folds: int, seed: int) -> "Folds":
        """Assign questions to folds of nearly equal size at random."""
        order = np.random.default_rng(seed).permutation(num_questions)
        return cls(order % num_folds, num_folds)

    def holds_out(self, fold: int, labels: Labels) -> NDArray[np.bool_]:
        """Return the mask of the answers that a fold holds out, shape (N,)."""
        return np.asarray(self.fold_of_question[labels.question] == fold)


@dataclass(frozen=True)
class Learner:
    """Logistic regression with balanced classes."""

    c: float = 1.0
    """Inverse strength of the L2 penalty on standardised features."""

    def predict_many(
        self, table: Array, wrong: NDArray[np.bool_], test: NDArray[np.bool_], sets: Sequence[Layers]
    ) -> Array:
        """Fit and predict many sets of layers together.

        Args:
            table: features, shape (N, L, K).
            wrong: whether an answer is wrong, shape (N,).
            test: mask of the held-out answers, shape (N,).
            sets: sets of one size.

        Returns:
            Scores of the held-out answers, shape (sets, test).
        """
        inside = wrong[~test]
        if not sets[0] or inside.all() or not inside.any():
            return np.zeros((len(sets), int(test.sum())))
        num_features = table.shape[2]
        flat = table.reshape(len(table), -1)
        train, held = _standardised(flat[~test], flat[test])
        distinct = sorted(set(sets))
        columns = np.array([[layer * num_features + k for layer in s for k in range(num_features)] for s in distinct])
        scores = dict(zip(distinct, decision_functions(train, inside, held, columns, self.c), strict=True))
        return np.stack([scores[s] for s in sets])


def _standardised(train: Array, test: Array) -> tuple[Array, Array]:
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return (train - mean) / spread, (test - mean) / spread


def auroc(scores: Array, labels: Labels) -> Auroc:
    """Return the probability that a wrong answer scores above a right one, ties counting half.

    Source: Obuchowski, 'Nonparametric analysis of clustered ROC curve data', 1997, for the error.
    """
    from scipy.stats import rankdata

    wrong, num = labels.wrong, labels.num_questions
    ranks = rankdata(scores)
    num_wrong, num_right = int(wrong.sum()), int((~wrong).sum())
    placed = np.empty(len(scores))
    placed[wrong] = (ranks[wrong] - rankdata(scores[wrong])) / num_right
    placed[~wrong] = 1 - (ranks[~wrong] - rankdata(scores[~wrong])) / num_wrong
    value = float(placed[wrong].mean())
    share = (placed - value) / np.where(wrong, num_wrong, num_right)
    influence: Array = np.bincount(labels.question, weights=share, minlength=num).astype(np.float64)
    return Auroc(value, influence)


def mean_auroc(parts: Sequence[Auroc]) -> Auroc:
    """Return the mean of several areas over the same questions."""
    return Auroc(float(np.mean([p.value for p in parts])), np.mean([p.influence for p in parts], axis=0))


def features(readings: Readings) -> Array:
    """Return log variance and log sparsity side by side, shape (N, L, 2)."""
    return np.stack([np.log(readings.variance), np.log(readings.sparsity)], axis=2)


def select_by_fold(selector: LayerSelector, folds: Folds) -> list[Layers]:
    """Select layers from the training questions of each fold."""
    return [selector(folds.fold_of_question != fold) for fold in range(folds.num_folds)]


def separate(table: Array, labels: Labels, folds: Folds, sets: Sequence[Layers], learner: Learner) -> Auroc:
    """Return how well each fold's set of layers separates its held-out answers.

    Args:
        table: features, shape (N, L, K).
        labels: labels of the answers.
        folds: folds of the questions.
        sets: one set of layers per fold.
        learner: the classifier.
    """
    masks = [folds.holds_out(fold, labels) for fold in range(folds.num_folds)]
    parts = [
        learner.predict_many(table, labels.wrong, test, [layers])[0] for test, layers in zip(masks, sets, strict=True)
    ]
    return auroc(joined(parts, labels, folds), labels)


def joined(parts: Sequence[Array], labels: Labels, folds: Folds) -> Array:
    """Join the scores of all folds in order of the answers, shape (N,)."""
    scores = np.zeros(len(labels.question))
    for fold, part in enumerate(parts):
        scores[folds.holds_out(fold, labels)] = part
    return scores


def random_layers(num_layers: int, size: int, draws: int, seed: int) -> list[Layers]:
    """Return seeded random sets of layers; a larger set contains the smaller one of the same draw."""
    orders = [np.random.default_rng((seed, draw)).permutation(num_layers) for draw in range(draws)]
    return [tuple(sorted(order[:size].tolist())) for order in orders]
