"""How well statistics of some layers tell wrong answers from right ones, on questions that were not learnt from.

A logistic regression on log variance and log sparsity of a set of layers is fitted in each fold's training questions
and predicts its held-out ones. What depends on labels, such as which layers are flagged, is chosen inside the training
questions too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from stratoscope.scoring.layer_tests import Labels
from stratoscope.scoring.definitions import Readings
from stratoscope.scoring.logistic import decision_functions

Array = NDArray[np.float64]
Layers = tuple[int, ...]
Choose = Callable[[NDArray[np.bool_]], Layers]
"""From which questions may be looked at, shape (Q,), to layers."""


@dataclass(frozen=True, eq=False)
class Auroc:
    """An area under the ROC curve, with what each question contributes to its error."""

    value: float
    influence: Array
    """Shape (Q,), of sum 0; the error of the value is about the sum over the questions of another sample."""

    @property
    def error(self) -> float:
        """Standard error, questions being the unit."""
        num = len(self.influence)
        return float(np.sqrt((self.influence**2).sum() * num / (num - 1)))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the normal interval."""
        half = NormalDist().inv_cdf(0.5 + confidence / 2) * self.error
        return self.value - half, self.value + half

    def minus(self, other: "Auroc") -> "Auroc":
        """Return the difference to another of the same questions."""
        return Auroc(self.value - other.value, self.influence - other.influence)

    def detectable(self, level: float = 0.05, power: float = 0.8) -> float:
        """Return the smallest value that a two-sided test against 0 would find with that power."""
        normal = NormalDist()
        return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * self.error


@dataclass(frozen=True)
class Folds:
    """Which questions are held out together."""

    of_question: NDArray[np.int64]
    """Shape (Q,)."""
    num_folds: int

    @classmethod
    def draw(cls, num_questions: int, num_folds: int, seed: int) -> "Folds":
        """Deal questions into folds of like size."""
        order = np.random.default_rng(seed).permutation(num_questions)
        return cls(order % num_folds, num_folds)

    def holds_out(self, fold: int, labels: Labels) -> NDArray[np.bool_]:
        """Return which answers a fold holds out, shape (N,)."""
        return np.asarray(self.of_question[labels.question] == fold)


@dataclass(frozen=True)
class Learner:
    """The classifier."""

    c: float = 1.0
    """Inverse strength of the L2 penalty on standardised features."""

    def predict(self, train: Array, wrong: NDArray[np.bool_], test: Array) -> Array:
        """Fit on training answers and return scores that are higher for answers more likely wrong, shape (test,)."""
        from sklearn.linear_model import LogisticRegression

        if train.shape[1] == 0 or wrong.all() or not wrong.any():
            return np.zeros(len(test))
        train, test = _standardised(train, test)
        model = LogisticRegression(C=self.c, class_weight="balanced", solver="lbfgs", tol=1e-3, max_iter=200)
        model.fit(train, wrong)
        scores: Array = model.decision_function(test)
        return scores

    def predict_many(
        self, table: Array, wrong: NDArray[np.bool_], test: NDArray[np.bool_], sets: Sequence[Layers]
    ) -> Array:
        """Do the same for many sets of as many layers, together.

        Args:
            table: features, shape (N, L, K).
            wrong: shape (N,).
            test: the answers that are held out, shape (N,).
            sets: all of one size.

        Returns:
            Scores of the held-out answers, shape (sets, test).
        """
        inside = wrong[~test]
        if not sets[0] or inside.all() or not inside.any():
            return np.zeros((len(sets), int(test.sum())))
        num_features = table.shape[2]
        train, held = _standardised(table[~test].reshape(len(inside), -1), table[test].reshape(int(test.sum()), -1))
        distinct = sorted(set(sets))
        columns = np.array([[layer * num_features + k for layer in s for k in range(num_features)] for s in distinct])
        found = dict(zip(distinct, decision_functions(train, inside, held, columns, self.c), strict=True))
        return np.stack([found[s] for s in sets])


def _standardised(train: Array, test: Array) -> tuple[Array, Array]:
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return (train - mean) / spread, (test - mean) / spread


def auroc(scores: Array, labels: Labels) -> Auroc:
    """Return the chance that a wrong answer scores above a right one, ties counting half.

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
    """Return the mean of several of the same questions."""
    return Auroc(float(np.mean([p.value for p in parts])), np.mean([p.influence for p in parts], axis=0))


def features(readings: Readings) -> Array:
    """Return log variance and log sparsity side by side, shape (N, L, 2)."""
    return np.stack([np.log(readings.variance), np.log(readings.sparsity)], axis=2)


def of_layers(table: Array, layers: Layers) -> Array:
    """Return the features of some layers, shape (N, 2 * layers)."""
    return table[:, list(layers)].reshape(len(table), -1)


def chosen_inside(choose: Choose, folds: Folds) -> list[Layers]:
    """Choose layers inside the training questions of each fold."""
    return [choose(folds.of_question != fold) for fold in range(folds.num_folds)]


def separate(table: Array, labels: Labels, folds: Folds, sets: Sequence[Layers], learner: Learner) -> Auroc:
    """Return how well held-out answers are told apart, each fold by its own set of layers.

    Args:
        table: features, shape (N, L, K).
        labels: of the answers.
        folds: of the questions.
        sets: one per fold.
        learner: the classifier.
    """
    parts = [
        held_out(table, labels.wrong, folds.holds_out(fold, labels), layers, learner)
        for fold, layers in enumerate(sets)
    ]
    return auroc(joined(parts, labels, folds), labels)


def held_out(
    table: Array, wrong: NDArray[np.bool_], test: NDArray[np.bool_], layers: Layers, learner: Learner
) -> Array:
    """Return the scores of held-out answers, learnt from all others.

    Args:
        table: features, shape (N, L, K).
        wrong: shape (N,).
        test: the answers that are held out, shape (N,).
        layers: whose features are used.
        learner: the classifier.
    """
    inside = of_layers(table, layers)
    return learner.predict(inside[~test], wrong[~test], inside[test])


def joined(parts: Sequence[Array], labels: Labels, folds: Folds) -> Array:
    """Put the scores of all folds into the order of the answers, shape (N,)."""
    scores = np.zeros(len(labels.question))
    for fold, part in enumerate(parts):
        scores[folds.holds_out(fold, labels)] = part
    return scores


def random_layers(num_layers: int, size: int, draws: int, seed: int) -> list[Layers]:
    """Return seeded random sets; a larger one of the same draw holds the smaller."""
    orders = [np.random.default_rng((seed, draw)).permutation(num_layers) for draw in range(draws)]
    return [tuple(sorted(order[:size].tolist())) for order in orders]
