"""HSAV, HSS and EAVSS against literal sums, what they find, and how seldom they find what is not there."""

import numpy as np
import pytest
from scipy.stats import binom

from stratoscope.scoring import DEFINITIONS, Inference, Labels, LayerTestResult, Readings, find_layers

FAST = Inference(draws=199)


def answers(num_questions: int, seed: int, per_question: int = 4, longer: int = 0) -> Labels:
    """Questions with right and wrong answers of random lengths, the wrong ones longer by some tokens."""
    generator = np.random.default_rng(seed)
    question = np.repeat(np.arange(num_questions), per_question)
    wrong = np.tile(np.arange(per_question) % 2 == 1, num_questions)
    tokens = generator.integers(2, 20, len(question)) + longer * wrong
    return Labels(question, wrong, tokens)


def readings(labels: Labels, num_layers: int, seed: int) -> Readings:
    """Readings without an effect: what a question has in common, what layers have, and noise."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(labels.num_questions, 1))[labels.question]
    noise = generator.normal(size=(len(labels.wrong), num_layers))
    layers = np.linspace(-1, 2, num_layers)
    sparse = 1 / (1 + np.exp(3 + 0.3 * generator.normal(size=noise.shape)))
    return Readings(np.exp(layers + shared + 0.3 * noise), sparse)


def find(
    definition: str, taps: dict[str, Readings], labels: Labels, inference: Inference = FAST
) -> list[LayerTestResult]:
    return find_layers(DEFINITIONS[definition], taps, labels, inference)


def test_hsav_hss_and_eavss_are_the_sums_they_are_said_to_be() -> None:
    labels = answers(15, 0, per_question=5)
    seen = readings(labels, 3, 1)
    (found,) = find("eavss", {"block": seen}, labels)
    hsav, hss = [], []
    for question in range(15):
        of_question = labels.question == question
        wrong, right = of_question & labels.wrong, of_question & ~labels.wrong
        hsav.append(np.log(seen.variance[wrong]).mean(axis=0) - np.log(seen.variance[right]).mean(axis=0))
        hss.append(np.log(seen.sparsity[right]).mean(axis=0) - np.log(seen.sparsity[wrong]).mean(axis=0))
    np.testing.assert_allclose(found.hsav, np.mean(hsav, axis=0))
    np.testing.assert_allclose(found.hss, np.mean(hss, axis=0))
    np.testing.assert_allclose(found.eavss, found.hsav + found.hss)
    np.testing.assert_allclose(found.propensity, np.abs(found.eavss) / np.abs(found.eavss).mean())
    assert found.direction == ["more" if value > 0 else "less" for value in found.eavss]

    (standardized,) = find("standardized", {"block": seen}, labels)
    y = np.array(hsav) + np.array(hss)
    np.testing.assert_allclose(standardized.eavss, y.mean(axis=0) / y.std(axis=0, ddof=1))
    (dprime,) = find("dprime", {"block": seen}, labels)
    np.testing.assert_allclose(dprime.eavss, y.mean(axis=0) / seen.log_avss.std(axis=0))
    (difference,) = find("difference", {"block": seen}, labels)
    wrong = [seen.variance[(labels.question == q) & labels.wrong].mean(axis=0) for q in range(15)]
    right = [seen.variance[(labels.question == q) & ~labels.wrong].mean(axis=0) for q in range(15)]
    expected = (np.mean(wrong, axis=0) - np.mean(right, axis=0)) / seen.variance.mean(axis=0)
    np.testing.assert_allclose(difference.hsav, expected)
    (alone,) = find("hallucinated_only", {"block": seen}, labels)
    log = np.log(seen.variance[labels.wrong]).mean(axis=0)
    np.testing.assert_allclose(alone.hsav, log - log.mean())
    assert np.isnan(alone.p_value).all()


def test_the_ratio_is_that_of_means() -> None:
    labels = answers(200, 3, per_question=2)
    seen = readings(labels, 4, 4)
    (found,) = find("ratio", {"block": seen}, labels)
    variance = seen.variance[labels.wrong].mean(axis=0) / seen.variance[~labels.wrong].mean(axis=0)
    sparse = seen.sparsity[~labels.wrong].mean(axis=0) / seen.sparsity[labels.wrong].mean(axis=0)
    np.testing.assert_allclose(found.hsav, variance - 1)
    np.testing.assert_allclose(found.eavss, variance * sparse - 1)
    assert ((found.low < found.eavss) & (found.eavss < found.high)).all()


def test_the_ratio_of_questions_with_more_wrong_answers_than_others_is_that_of_means_over_questions() -> None:
    """Questions with 7 wrong answers have ten times the variance, in right answers as in wrong ones."""
    counts = np.where(np.arange(300) % 2 == 0, 7, 1)
    question = np.repeat(np.arange(300), counts + 1)
    wrong = np.concatenate([np.arange(n + 1) > 0 for n in counts])
    generator = np.random.default_rng(0)
    labels = Labels(question, wrong, generator.integers(1, 9, len(question)))
    level = np.where(counts == 7, 10.0, 1.0)[question, None]
    seen = Readings(level * np.exp(0.05 * generator.normal(size=(len(question), 3))), np.full((len(question), 3), 0.5))
    (found,) = find("ratio", {"block": seen}, labels)
    means = [
        np.mean([seen.variance[(question == q) & kind].mean(axis=0) for q in range(300)], axis=0)
        for kind in (wrong, ~wrong)
    ]
    np.testing.assert_allclose(found.hsav, means[0] / means[1] - 1)
    assert (found.p_value > 0.05).all()


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_standardized_is_in_standard_deviations_where_groups_are_compared_too(share: float) -> None:
    generator = np.random.default_rng(1)
    wrong = np.arange(3000) < share * 3000
    labels = Labels(np.arange(3000), wrong, generator.integers(2, 9, 3000))
    log = generator.normal(wrong[:, None], 1.0, (3000, 2))
    (found,) = find("standardized", {"block": Readings(np.exp(log), np.full(log.shape, 0.5))}, labels)
    assert found.eavss == pytest.approx([1, 1], abs=0.15)


def test_answers_that_are_alike_have_no_contrast_however_many_a_question_has() -> None:
    question = np.repeat(np.arange(40), 8)
    wrong = np.tile(np.arange(8) > 0, 40)
    labels = Labels(question, wrong, np.random.default_rng(0).integers(1, 9, len(question)))
    alike = np.repeat(np.exp(np.random.default_rng(1).normal(size=(40, 3))), 8, axis=0)
    (found,) = find("eavss", {"block": Readings(alike, np.full(alike.shape, 0.1))}, labels)
    assert found.eavss.tolist() == [0, 0, 0]
    assert found.p_value.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("definition", "even"), [("eavss", True), ("standardized", True), ("ratio", False)])
def test_a_band_that_is_not_even_around_0_has_no_half_width(definition: str, even: bool) -> None:
    labels = answers(40, 0)
    (found,) = find(definition, {"block": readings(labels, 3, 1)}, labels)
    assert np.isfinite(found.null).all() == even
    assert np.isfinite(found.low).all()


@pytest.mark.parametrize("definition", ["eavss", "standardized", "dprime", "difference", "ratio"])
def test_a_layer_that_reacts_is_found_with_its_direction(definition: str) -> None:
    labels = answers(80, 5)
    seen, other = readings(labels, 10, 6), readings(labels, 10, 7)
    variance = seen.variance.copy()
    variance[labels.wrong, 4] *= 0.75
    changed = Readings(variance, seen.sparsity)
    first, second = find(definition, {"update": changed, "block": other}, labels)
    assert np.flatnonzero(first.flagged).tolist() == [4]
    assert first.direction[4] == "less"
    assert first.p_value[4] <= 0.05
    assert not second.flagged.any()


def test_groups_without_pairs_are_compared_too() -> None:
    generator = np.random.default_rng(8)
    wrong = generator.random(300) < 0.7
    labels = Labels(np.arange(300), wrong, generator.integers(1, 12, 300))
    seen = readings(labels, 6, 9)
    seen.variance[wrong, 2] *= 2.5
    (found,) = find("eavss", {"block": seen}, labels)
    assert labels.design == "grouped"
    assert found.flagged[2]
    assert found.eavss[2] == pytest.approx(np.log(2.5), abs=0.35)
    seen = readings(labels, 6, 9)
    (nothing,) = find("eavss", {"block": seen}, labels)
    assert not nothing.flagged.any()


def test_labels_dealt_at_random_flag_anything_as_seldom_as_they_may() -> None:
    """Of 200 draws with 12 correlated layers at 2 taps, 5 % may: the 99.9 % quantile of that binomial is 21."""
    base = answers(40, 10)
    taps = {"block": readings(base, 12, 11), "update": readings(base, 12, 12)}
    flagging = 0
    for seed in range(200):
        flips = np.random.default_rng((99, seed)).random(40) < 0.5
        labels = Labels(base.question, base.wrong ^ flips[base.question], base.tokens)
        found = find("eavss", taps, labels, Inference(draws=199, threshold=0.0, seed=seed))
        flagging += any(f.flagged.any() for f in found)
    assert binom.ppf(0.999, 200, 0.05) == 21
    assert flagging <= 21


def test_longer_wrong_answers_alone_flag_nothing() -> None:
    labels = answers(150, 13, longer=8)
    seen = readings(labels, 8, 14)
    by_length = np.log(labels.tokens)[:, None] * np.linspace(-0.8, 0.8, 8) + 1.5 / labels.tokens[:, None]
    confounded = Readings(seen.variance * np.exp(by_length), seen.sparsity)
    (found,) = find("eavss", {"block": confounded}, labels)
    assert (found.p_value <= 0.05).sum() >= 6
    assert not found.flagged.any()
    assert (found.p_value_adjusted > 0.05).all()


def test_too_few_questions_are_refused() -> None:
    labels = answers(9, 15)
    with pytest.raises(ValueError, match="9 questions have a right and a wrong answer"):
        find("eavss", {"block": readings(labels, 3, 16)}, labels)
    alone = Labels(np.arange(30), np.arange(30) < 4, np.full(30, 3))
    with pytest.raises(ValueError, match="26 answers are right and 4 wrong"):
        find("eavss", {"block": readings(alone, 3, 17)}, alone)


def test_the_order_of_answers_changes_nothing() -> None:
    labels = answers(30, 18)
    seen = readings(labels, 5, 19)
    order = np.random.default_rng(20).permutation(len(labels.wrong))
    shuffled = Labels(labels.question[order], labels.wrong[order], labels.tokens[order])
    (a,) = find("eavss", {"block": seen}, labels)
    (b,) = find("eavss", {"block": Readings(seen.variance[order], seen.sparsity[order])}, shuffled)
    np.testing.assert_allclose(a.eavss, b.eavss)
    np.testing.assert_allclose(a.p_value_adjusted, b.p_value_adjusted)


def test_too_few_randomisations_for_a_level_are_recognised_by_the_least_p_value() -> None:
    labels = answers(40, 0)
    seen = readings(labels, 3, 1)
    shifted = Readings(seen.variance * np.where(labels.wrong, 9.0, 1.0)[:, None], seen.sparsity)
    few = Inference(draws=99, level=0.001, threshold=0.5)
    (result,) = find("eavss", {"block": shifted}, labels, few)
    assert (result.level, result.least_p) == (0.001, pytest.approx(0.01))
    assert not result.survives.any()


@pytest.mark.parametrize("definition", list(DEFINITIONS))
def test_a_layer_that_cannot_be_read_takes_no_part(definition: str) -> None:
    labels = answers(40, 0)
    seen = readings(labels, 5, 1)
    seen.variance[labels.wrong, 2] *= 3
    variance, sparse = (np.insert(values, 1, values[:, 0], axis=1) for values in (seen.variance, seen.sparsity))
    variance[7, 1] = np.nan
    (without,) = find(definition, {"block": seen}, labels)
    (found,) = find(definition, {"block": Readings(variance, sparse)}, labels)
    others = np.arange(6) != 1
    for name in ("hsav", "hss", "eavss", "low", "high", "adjusted", "null", "p_value", "p_value_adjusted"):
        values = getattr(found, name)
        np.testing.assert_allclose(values[others], getattr(without, name), err_msg=name)
        assert np.isnan(values[1]), name
    np.testing.assert_allclose(found.propensity[others], without.propensity)
    assert found.flagged[others].tolist() == without.flagged.tolist()
    assert (found.propensity[1], found.flagged[1], found.direction[1]) == (0, False, "none")
