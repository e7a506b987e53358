import numpy as np
from scipy import stats

from stratoscope.statistics import bootstrap_weights, half_weights, merge_all, percentile_interval, resample, spearman
from stratoscope.statistics.sufficient import stack

from .test_sufficient import of_values


def test_a_resample_is_the_merge_of_its_prompts() -> None:
    rng = np.random.default_rng(1)
    prompts = stack([of_values(rng.standard_normal(5 + i) * (i + 1) + 100, tokens=i + 1) for i in range(6)])[:, None]
    weights = bootstrap_weights(6, 40, seed=3)
    below = prompts.below[..., 1]
    got = resample(prompts, below, weights)
    for draw, weight in enumerate(weights.astype(int)):
        chosen = np.repeat(np.arange(6), weight)
        expected = merge_all(prompts[chosen])
        np.testing.assert_allclose(got.variance[draw], expected.variance, rtol=1e-10)
        np.testing.assert_allclose(got.pooled_variance[draw], expected.pooled_variance, rtol=1e-12)
        np.testing.assert_allclose(got.cosine[draw], expected.cosine, rtol=1e-12)
        assert got.below[draw] == below[chosen].sum()
        assert got.count[draw] == expected.count


def test_weights_are_seeded_and_complete() -> None:
    weights = bootstrap_weights(10, 30, seed=0)
    assert (weights.sum(axis=1) == 10).all()
    assert (weights == bootstrap_weights(10, 30, seed=0)).all()
    assert (weights != bootstrap_weights(10, 30, seed=1)).any()
    halves = half_weights(7, 5, seed=0)
    assert (halves.sum(axis=1) == 1).all()
    assert (halves.sum(axis=2) == [3, 4]).all()


def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        x = np.random.default_rng(seed).standard_normal(60)
        draws = bootstrap_weights(60, 400, seed) @ x / 60
        low, high = percentile_interval(draws, 0.95)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_spearman_agrees_with_scipy_on_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 5, 12).astype(float), rng.integers(0, 5, 12).astype(float)
        np.testing.assert_allclose(spearman(a, b), stats.spearmanr(a, b).statistic, rtol=1e-12)
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))
    assert np.isnan(spearman(np.array([1.0, np.nan]), np.arange(2.0)))
