import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.statistics import Statistics, merge, merge_all, stack
from stratoscope.statistics.histogram import NUM_BINS, bin_of
from stratoscope.statistics.sufficient import ARRAYS

EPSILONS = (0.01, 1.0)


def of_values(x: np.ndarray, tokens: int = 1) -> Statistics:
    """Statistics of one set, computed literally in float64."""
    counts = np.bincount(bin_of(x), minlength=NUM_BINS)
    return Statistics(
        EPSILONS,
        prompts=np.array([int(x.size > 0)]),
        tokens=np.array([tokens]),
        count=np.array([x.size]),
        mean=np.array([x.mean() if x.size else 0.0]),
        m2=np.array([((x - x.mean()) ** 2).sum() if x.size else 0.0]),
        pooled_variance=np.array([x.var() if x.size else np.nan]),
        histogram=counts[None],
        below=np.array([[(np.abs(x) < e).sum() for e in EPSILONS]]),
        cosine=np.array([0.5 if x.size else np.nan]),
        cosine_tokens=np.array([tokens if x.size else 0]),
        nonfinite=np.array([0]),
    )


def close(a: Statistics, b: Statistics, x: np.ndarray) -> None:
    """The stated precision: mean to 1e-12 of the root mean square, m2 to 1e-12 of the sum of squares."""
    squares = float((x**2).sum())
    assert abs(a.mean - b.mean) <= 1e-12 * np.sqrt(squares / max(x.size, 1))
    assert abs(a.m2 - b.m2) <= 1e-12 * squares
    for name in set(ARRAYS) - {"mean", "m2"}:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12)


values = st.tuples(st.integers(0, 2**31), st.integers(0, 40), st.floats(-1e6, 1e6), st.floats(1e-3, 1e3))


def draw(spec: tuple[int, int, float, float]) -> np.ndarray:
    seed, size, offset, scale = spec
    return np.random.default_rng(seed).standard_normal(size) * scale + offset


@settings(max_examples=200)
@given(values, values, values)
def test_merging_is_associative_commutative_and_right(a: tuple, b: tuple, c: tuple) -> None:
    x, y, z = draw(a), draw(b), draw(c)
    sx, sy, sz = of_values(x, 3), of_values(y, 5), of_values(z, 7)
    everything = np.concatenate([x, y, z])
    left = merge(merge(sx, sy), sz)
    close(left, merge(sx, merge(sy, sz)), everything)
    close(merge(sx, sy), merge(sy, sx), np.concatenate([x, y]))
    close(left, merge_all(stack([sx, sy, sz])[:, None], axis=0), everything)
    assert left.tokens == 15
    assert left.count == everything.size
    if everything.size:
        literal = ((everything - everything.mean()) ** 2).sum()
        assert abs(left.m2 - literal) <= 1e-11 * (everything**2).sum()


def test_an_empty_set_changes_nothing_and_a_large_offset_costs_nothing() -> None:
    x = np.random.default_rng(0).standard_normal(1000) + 1e8
    merged = merge(of_values(x[:500]), of_values(x[500:]))
    np.testing.assert_allclose(merged.variance, x.var(), rtol=1e-7)
    assert merge(of_values(x), of_values(x[:0])).m2 == of_values(x).m2
    assert np.isnan(of_values(x[:0]).variance[0])


def test_different_thresholds_are_not_merged() -> None:
    a = of_values(np.ones(3))
    b = Statistics((0.5, 1.0), *(getattr(a, name) for name in ARRAYS))
    with pytest.raises(ValueError, match="different thresholds"):
        merge(a, b)


def test_shapes_are_checked() -> None:
    a = of_values(np.ones(3))
    arrays = {name: getattr(a, name) for name in ARRAYS} | {"tokens": np.ones(2, np.int64)}
    with pytest.raises(ValueError, match="tokens has shape"):
        Statistics(EPSILONS, **arrays)
