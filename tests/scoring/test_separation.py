"""Separation: the area against scikit-learn's, its error against resampling, and no leak between folds."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from stratoscope.scoring import Readings
from stratoscope.scoring.separation import (
    Folds,
    Learner,
    auroc,
    features,
    mean_auroc,
    random_layers,
    select_by_fold,
    separate,
)
from tests.scoring.test_layer_tests import answers, readings


def area(wrong: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve from the ranks of scores (Mann and Whitney), fast enough for many samples."""
    positives = int(wrong.sum())
    excess = rankdata(scores)[wrong].sum() - positives * (positives + 1) / 2
    return float(excess / (positives * (len(wrong) - positives)))


def test_the_area_is_scikit_learns_and_its_error_that_of_resampled_questions() -> None:
    labels = answers(60, 0)
    generator = np.random.default_rng(1)
    shared = generator.normal(size=60)[labels.question]
    scores = np.round(shared + 0.6 * labels.wrong + generator.normal(size=len(labels.wrong)), 1)
    found = auroc(scores, labels)
    assert found.value == pytest.approx(roc_auc_score(labels.wrong, scores))
    assert found.value == pytest.approx(area(labels.wrong, scores))
    assert found.influence.sum() == pytest.approx(0, abs=1e-12)
    draws = []
    for _ in range(2000):
        chosen = generator.integers(0, 60, 60)
        rows = np.concatenate([np.flatnonzero(labels.question == q) for q in chosen])
        draws.append(area(labels.wrong[rows], scores[rows]))
    assert found.error == pytest.approx(np.std(draws), rel=0.1)
    low, high = found.interval(0.95)
    assert low < found.value < high
    assert found.detectable() == pytest.approx(2.8016 * found.error, rel=1e-3)


def test_differences_of_the_same_questions_are_surer_than_each() -> None:
    labels = answers(80, 2)
    generator = np.random.default_rng(3)
    base = generator.normal(size=len(labels.wrong)) + labels.wrong
    a, b = auroc(base, labels), auroc(base + 0.1 * generator.normal(size=len(base)), labels)
    assert a.minus(b).error < 0.5 * a.error
    assert mean_auroc([a, b]).value == pytest.approx((a.value + b.value) / 2)


def test_layers_that_tell_do_and_noise_does_not() -> None:
    labels = answers(120, 4)
    seen = readings(labels, 6, 5)
    seen.variance[labels.wrong, 3] *= 2
    table, folds = features(Readings(seen.variance, seen.sparsity)), Folds.draw(120, 5, 0)
    assert sorted(np.bincount(folds.fold_of_question)) == [24] * 5
    told = separate(table, labels, folds, [(3,)] * 5, Learner())
    assert told.value > 0.6
    noise = separate(table, labels, folds, [(1,)] * 5, Learner())
    assert abs(noise.value - 0.5) < 3 * noise.error
    assert separate(table, labels, folds, [()] * 5, Learner()).value == 0.5


def test_flags_are_chosen_without_the_held_out_questions() -> None:
    labels = answers(50, 6)
    folds = Folds.draw(50, 5, 1)
    seen: list[np.ndarray] = []

    def choose(questions: np.ndarray) -> tuple[int, ...]:
        seen.append(questions)
        return (int(questions.sum()) % 3,)

    assert select_by_fold(choose, folds) == [(1,)] * 5
    assert np.stack(seen).sum(axis=0).tolist() == [4] * 50
    assert all((folds.fold_of_question[questions] != fold).all() for fold, questions in enumerate(seen))
    assert len(labels.wrong) == 200


def test_random_sets_have_the_sizes_asked_for_and_differ() -> None:
    sets = random_layers(30, 5, 20, 0)
    assert [len(set(s)) for s in sets] == [5] * 20
    assert len(set(sets)) == 20
    assert random_layers(30, 5, 20, 0) == sets
    assert all(set(few) < set(many) for few, many in zip(random_layers(30, 3, 20, 0), sets, strict=True))


@pytest.mark.parametrize("size", [1, 3])
def test_many_sets_at_once_are_solved_as_scikit_learn_solves_them(size: int) -> None:
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(5)
    table = generator.normal(size=(240, 8, 2)) + generator.normal(size=(240, 1, 1))
    wrong = generator.random(240) < 1 / (1 + np.exp(-2 * table[:, 2, 0] + table[:, 5, 1]))
    test = generator.random(240) < 0.25
    sets = random_layers(8, size, 12, seed=1)

    found = Learner().predict_many(table, wrong, test, sets)

    for scores, layers in zip(found, sets, strict=True):
        train, held = (table[m][:, list(layers)].reshape(int(m.sum()), -1) for m in (~test, test))
        mean, spread = train.mean(axis=0), train.std(axis=0)
        model = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-10, max_iter=1000)
        model.fit((train - mean) / spread, wrong[~test])
        np.testing.assert_allclose(scores, model.decision_function((held - mean) / spread), atol=1e-5)


def test_many_sets_of_separable_classes_are_solved() -> None:
    table = np.concatenate([np.full((20, 2, 1), -3.0), np.full((20, 2, 1), 3.0)])
    wrong = np.arange(40) >= 20
    test = np.arange(40) % 4 == 0
    scores = Learner(c=1e6).predict_many(table, wrong, test, [(0,), (1,)])
    assert np.isfinite(scores).all()
    assert ((scores > 0) == wrong[test]).all()
