import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.statistics import histogram as h

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(finite, min_size=1, max_size=50))
def test_every_value_lies_within_its_bin(values: list[float]) -> None:
    x = np.asarray(values, np.float32)
    bins, edges = h.bin_of(x), h.lower_edges()
    magnitude = np.abs(x).astype(np.float64)
    assert (edges[bins] <= magnitude).all() or (bins[magnitude < edges[bins]] == h.UNDERFLOW).all()
    inside = bins < h.OVERFLOW
    assert (magnitude[inside] < edges[bins[inside] + 1]).all()


def test_layout_by_hand() -> None:
    assert h.NUM_BINS == 515
    assert h.bin_of(np.array([0.0, 1e-30, 1.0, 1.124, 1.125, 2.0, 2.0**24])).tolist() == [
        h.ZEROS,
        h.UNDERFLOW,
        h.FIRST_REGULAR + 320,
        h.FIRST_REGULAR + 320,
        h.FIRST_REGULAR + 321,
        h.FIRST_REGULAR + 328,
        h.OVERFLOW,
    ]


def test_bins_are_strictly_ascending_and_eight_an_octave() -> None:
    edges = h.lower_edges()
    assert (np.diff(edges) > 0).all()
    regular = edges[h.FIRST_REGULAR : h.OVERFLOW]
    assert np.allclose(regular[8:] / regular[:-8], 2.0)


def test_a_threshold_snaps_to_the_nearest_edge() -> None:
    index, edge = h.snap(0.01)
    assert edge == h.lower_edges()[index]
    assert abs(np.log2(edge / 0.01)) < 0.1
    assert h.snap(1.0) == (h.FIRST_REGULAR + 320, 1.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_threshold_must_be_positive(bad: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        h.snap(bad)


@given(st.integers(0, 2**31), st.floats(0.02, 0.98))
def test_the_quantile_edge_is_the_nearest_one(seed: int, quantile: float) -> None:
    x = np.random.default_rng(seed).standard_normal(2000)
    counts = np.bincount(h.bin_of(x), minlength=h.NUM_BINS)
    index, edge = h.quantile_edge(counts, quantile)
    share = (np.abs(x.astype(np.float32)) < edge).mean()
    assert h.count_below(counts, index) == round(share * 2000)
    neighbours = [(np.abs(x) < e).mean() for e in h.lower_edges()[[index - 1, index + 1]]]
    assert abs(share - quantile) <= min(abs(n - quantile) for n in neighbours) + 1e-9


def test_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        h.quantile_edge(np.zeros(h.NUM_BINS, np.int64), 0.5)
    with pytest.raises(ValueError, match="between 0 and 1"):
        h.quantile_edge(np.ones(h.NUM_BINS, np.int64), 1.0)
