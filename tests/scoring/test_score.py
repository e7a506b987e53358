"""Scores against numbers worked out by hand and against literal float64 computations."""

import numpy as np
import pytest

from stratoscope.pipelines.sharded.taps import taps_with_equal_quantiles
from stratoscope.scoring import (
    METRICS,
    Measures,
    Observations,
    ScoringSettings,
    SpanAngle,
    cosine_to_angle,
    layer_spans,
    lowest,
    num_dropped,
    observe_tap,
    random_scores,
    rank_layers,
    score_groups,
    score_layers,
    sparsity,
)
from stratoscope.scoring.measures import absolute_threshold, least_span_angle, quantile_threshold
from stratoscope.statistics import Statistics, merge_all, stack
from stratoscope.statistics.histogram import NUM_BINS, bin_of

EPSILONS = (0.01,)
NUM_PROMPTS, NUM_LAYERS, TOKENS, WIDTH = 12, 6, 5, 40


def activations(seed: int = 0) -> np.ndarray:
    """Full activations, shape (prompts, layers, tokens, width), each layer on a scale of its own."""
    scale = np.array([0.1, 1.0, 0.3, 5.0, 0.02, 2.0])[:, None, None]
    return (np.random.default_rng(seed).standard_normal((NUM_PROMPTS, NUM_LAYERS, TOKENS, WIDTH)) * scale).astype("f4")


def reduce(a: np.ndarray, epsilons: tuple[float, ...] = EPSILONS) -> Statistics:
    x = a.astype(np.float64)
    flat = x.reshape(*x.shape[:2], -1)
    shape = flat.shape[:2]
    histogram = np.stack([[np.bincount(bin_of(r), minlength=NUM_BINS) for r in p] for p in flat])
    return Statistics(
        epsilons,
        prompts=np.ones(shape, np.int64),
        tokens=np.full(shape, TOKENS),
        count=np.full(shape, flat.shape[2]),
        mean=flat.mean(-1),
        m2=((flat - flat.mean(-1, keepdims=True)) ** 2).sum(-1),
        pooled_variance=x.mean(axis=2).var(axis=-1, ddof=1),
        histogram=histogram,
        below=np.stack([(np.abs(flat) < np.float32(e)).sum(-1) for e in epsilons], axis=-1),
        cosine=np.tile(np.linspace(0.1, 0.9, NUM_LAYERS), (len(a), 1)),
        cosine_tokens=np.full(shape, TOKENS),
        nonfinite=np.zeros(shape, np.int64),
    )


def scored(choices: ScoringSettings, a: np.ndarray | None = None, **more: object) -> dict:
    a = activations() if a is None else a
    observations = Observations({"block": observe_tap(reduce(a), choices.epsilons)}, **more)
    weights = np.arange(NUM_LAYERS, 0.0, -1)
    return {(s.metric, s.variance, s.epsilon_kind): s for s in score_layers(observations, weights, choices)}


def test_sparsity_by_hand() -> None:
    assert sparsity(np.array([0, 3, 9]), np.array([9, 9, 9])).tolist() == [0.05, 0.35, 0.95]


def test_avss_is_the_literal_formula() -> None:
    a = activations()
    got = scored(ScoringSettings(("avss", "variance", "sparsity"), ("elementwise", "pooled")))
    per_layer = np.moveaxis(a.astype(np.float64), 1, 0).reshape(NUM_LAYERS, -1)
    variance = per_layer.var(axis=1)
    below = (np.abs(per_layer) < np.float32(0.01)).sum(axis=1)
    share = (below + 0.5) / (per_layer.shape[1] + 1)
    pooled = a.astype(np.float64).mean(axis=2).var(axis=-1, ddof=1).mean(axis=0)
    np.testing.assert_allclose(got["avss", "elementwise", "absolute"].scores, variance / share, rtol=1e-12)
    np.testing.assert_allclose(got["avss", "pooled", "absolute"].scores, pooled / share, rtol=1e-12)
    np.testing.assert_allclose(got["variance", "elementwise", None].scores, variance, rtol=1e-12)
    np.testing.assert_allclose(got["sparsity", None, "absolute"].scores, share, rtol=1e-12)
    assert (
        got["avss", "elementwise", "absolute"].ranking.rank.tolist()
        == np.argsort(np.argsort(variance / share)).tolist()
    )
    assert got["sparsity", None, "absolute"].ranking.rank[4] == 0, "the sparsest layer matters least"


def test_the_other_metrics_by_hand() -> None:
    one_each = np.ones(NUM_PROMPTS, np.int64)
    angles = {
        (start, 2): SpanAngle(np.full(NUM_PROMPTS, angle), one_each)
        for start, angle in enumerate([0.5, 0.1, 0.4, 0.3, 0.2])
    }
    names = ("block_influence", "angular_distance", "magnitude", "random", "last")
    got = {key[0]: s for key, s in scored(ScoringSettings(names), angles=angles).items()}
    np.testing.assert_allclose(got["block_influence"].scores, 1 - np.linspace(0.1, 0.9, 6))
    np.testing.assert_allclose(got["angular_distance"].scores, [0.5, 0.1, 0.1, 0.3, 0.2, 0.2])
    assert lowest(got["angular_distance"].ranking.rank, 2) == [1, 2], "the best span of two"
    assert got["magnitude"].scores.tolist() == [6, 5, 4, 3, 2, 1]
    assert lowest(got["last"].ranking.rank, 2) == [4, 5]
    assert got["random"].scores.tolist() == random_scores(NUM_LAYERS, 1, 0)[0].tolist()
    for name in ("magnitude", "random", "last"):
        assert np.isnan(got[name].low).all()
        assert np.isnan(got[name].split_half)
    assert all(s.tap is None for s in got.values())


def test_every_metric_has_a_name_and_a_score_for_each_layer() -> None:
    measures = Measures(*(np.linspace(0.1, 0.6, 5) for _ in range(5)), seed=3)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.compute(measures).shape == (5,)


def test_random_has_many_draws() -> None:
    draws = random_scores(30, 20, seed=1)
    assert draws.shape == (20, 30)
    assert len({tuple(np.argsort(d)[:8]) for d in draws}) == 20
    assert (random_scores(30, 20, seed=2) != draws).all()


def test_ranks_shares_and_ties_by_hand() -> None:
    ranking = rank_layers(np.array([3.0, 1.0, 1.0, np.nan, 5.0]))
    assert ranking.rank.tolist() == [2, 0, 1, 4, 3]
    np.testing.assert_allclose(ranking.normalized, [0.3, 0.1, 0.1, np.nan, 0.5])
    np.testing.assert_allclose(ranking.cumulative, [0.5, 0.1, 0.2, np.nan, 1.0])
    turned = rank_layers(np.array([3.0, 1.0, 5.0]), high_is_important=False)
    assert turned.rank.tolist() == [1, 2, 0]
    np.testing.assert_allclose(turned.cumulative, [8 / 9, 1.0, 5 / 9])


@pytest.mark.parametrize(("ratio", "layers", "dropped"), [(0.25, 30, 8), (0.1, 30, 3), (0.25, 32, 8), (0.5, 3, 2)])
def test_a_ratio_is_a_share_of_layers_rounded_half_up(ratio: float, layers: int, dropped: int) -> None:
    assert num_dropped(ratio, layers) == dropped


def test_thresholds_are_exact_where_counted_and_snap_elsewhere() -> None:
    s = reduce(activations())
    exact = absolute_threshold(0.01, s.epsilons)
    assert exact.epsilon == 0.01
    assert (exact.below(s) == s.below[..., 0]).all()
    snapped = absolute_threshold(0.02, s.epsilons)
    assert snapped.epsilon != 0.02
    assert abs(np.log2(snapped.epsilon / 0.02)) < 0.1
    x = activations().reshape(NUM_PROMPTS, NUM_LAYERS, -1)
    assert (snapped.below(s) == (np.abs(x) < np.float32(snapped.epsilon)).sum(-1)).all()
    quantile = quantile_threshold(0.1, s.histogram.sum(axis=(0, 1))).below(s)
    share = quantile.sum() / s.count.sum()
    assert abs(share - 0.1) < 0.02
    assert len(np.unique(quantile.sum(axis=0))) > 1, "sparsity still differs between layers"


def test_shards_of_prompts_have_the_scores_of_the_prompts() -> None:
    s = reduce(activations())
    shards = stack([merge_all(s[i : i + 3])[None] for i in range(0, NUM_PROMPTS, 3)])
    angle = np.random.default_rng(0).random(NUM_PROMPTS)
    angle[4] = np.nan
    known = ~np.isnan(angle)
    by_shard = known.reshape(-1, 3).sum(axis=1)
    means = np.nansum(angle.reshape(-1, 3), axis=1) / by_shard
    choices = ScoringSettings(
        tuple(METRICS),
        ("elementwise", "pooled"),
        (("absolute", 0.01), ("absolute", 0.05), ("quantile", 0.2)),
        draws=100,
    )
    weights = np.arange(NUM_LAYERS, 0.0, -1)
    by_unit = [
        list(score_layers(Observations({"block": observe_tap(units, choices.epsilons)}, {(0, 2): a}), weights, choices))
        for units, a in ((s, SpanAngle(angle, known.astype(int))), (shards, SpanAngle(means, by_shard)))
    ]
    assert len(by_unit[0]) > 10
    for prompts, merged in zip(*by_unit, strict=True):
        np.testing.assert_allclose(merged.scores, prompts.scores, rtol=1e-11)
        assert (merged.ranking.rank == prompts.ranking.rank).all()
        assert (merged.epsilon, merged.num_never_sparse) == (prompts.epsilon, prompts.num_never_sparse)


def test_scaling_all_activations_scales_avss_by_the_square() -> None:
    """With a quantile threshold, powers of two change nothing but the scale."""
    choices = ScoringSettings(("avss",), epsilons=(("quantile", 0.1),))
    one, four = scored(choices), scored(choices, activations() * np.float32(4))
    key = ("avss", "elementwise", "quantile")
    np.testing.assert_allclose(four[key].scores, 16 * one[key].scores, rtol=1e-12)
    assert (four[key].ranking.rank == one[key].ranking.rank).all()


def test_intervals_hold_the_score_and_a_clear_order_is_stable() -> None:
    s = scored(ScoringSettings(("avss",), draws=500))["avss", "elementwise", "absolute"]
    assert (s.low < s.scores).all()
    assert (s.scores < s.high).all()
    assert s.split_half > 0.9
    assert s.num_never_sparse == 0
    same = scored(ScoringSettings(("avss",), draws=500))["avss", "elementwise", "absolute"]
    assert (same.low == s.low).all()


def test_layers_without_a_sparse_activation_are_counted() -> None:
    a = activations() + np.float32(100) * (np.arange(NUM_LAYERS) >= 4)[:, None, None]
    assert scored(ScoringSettings(("avss",)), a)["avss", "elementwise", "absolute"].num_never_sparse == 2


def test_one_prompt_has_a_score_but_no_interval() -> None:
    s = scored(ScoringSettings(("variance",)), activations()[:1])["variance", "elementwise", None]
    assert np.isfinite(s.scores).all()
    assert np.isnan(s.low).all()


def test_layers_in_no_span_have_no_angle() -> None:
    assert np.isnan(least_span_angle({(1, 1): np.array(0.2)}, 3)).tolist() == [True, False, True]


def test_groups_are_scored_in_order_and_without_magnitude_where_a_norm_is_missing() -> None:
    settings = ScoringSettings(("variance", "magnitude"), draws=100)
    everything = Observations({"block": observe_tap(reduce(activations()), settings.epsilons)})
    groups = {"all": everything} | everything.split(["a", "b"] * (NUM_PROMPTS // 2))
    norms = np.arange(NUM_LAYERS, 0.0, -1)
    scorings = [(group, s.metric) for group, s in score_groups(groups, norms, settings)]
    assert scorings == [(group, metric) for group in ("all", "a", "b") for metric in settings.metrics]
    norms[2] = np.nan
    assert [(group, s.metric) for group, s in score_groups(groups, norms, settings)] == [
        (group, "variance") for group in ("all", "a", "b")
    ]
    assert everything.split(["a"] * NUM_PROMPTS) == {}


def test_quantiles_with_the_same_threshold_are_scored_once() -> None:
    quantiles = tuple(("quantile", q) for q in (0.5, 0.5001, 0.9))
    settings = ScoringSettings(("variance", "sparsity"), epsilons=quantiles, draws=100)
    observations = Observations({"block": observe_tap(reduce(activations()), settings.epsilons)})
    scorings = [s for _, s in score_groups({"all": observations}, np.ones(NUM_LAYERS), settings)]
    assert [s.metric for s in scorings] == ["variance", "sparsity", "sparsity"]
    thresholds = [(s.tap, s.epsilon_kind, s.epsilon) for s in scorings]
    assert taps_with_equal_quantiles(thresholds, 3) == ["block"]
    assert taps_with_equal_quantiles(thresholds, 2) == []


def test_spans_start_at_every_layer() -> None:
    assert layer_spans([2, 1, 2], 3) == ((0, 1), (1, 1), (2, 1), (0, 2), (1, 2))
    assert layer_spans([4], 3) == ()
    np.testing.assert_allclose(cosine_to_angle(np.array([1.0, 0.0, -1.0])), [0, 0.5, 1])
