import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.activations import Tap
from stratoscope.results import from_parquet, to_parquet
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import NUM_BINS
from stratoscope.statistics.sufficient import ARRAYS
from stratoscope.tables import activations as rows
from stratoscope.tables import score as tables


def random_statistics(seed: int) -> Statistics:
    rng = np.random.default_rng(seed)
    shape = (3, 4, 2)
    histogram = rng.integers(0, 5, (*shape, NUM_BINS)) * (rng.random((*shape, NUM_BINS)) < 0.1)
    histogram[0, 0, 0] = 0
    pooled = rng.random(shape)
    pooled[1, 1, 1] = np.nan
    cosine = np.repeat(rng.random((3, 4, 1)), 2, axis=2)
    tokens = np.repeat(rng.integers(1, 9, (3, 1, 1)), 8).reshape(shape)
    return Statistics(
        (0.1, 0.2),
        prompts=(~np.isnan(pooled)).astype(np.int64),
        tokens=tokens,
        count=histogram.sum(-1),
        # Both are 0 without activations, and null in the table.
        mean=np.where(histogram.any(-1), rng.standard_normal(shape), 0),
        m2=np.where(histogram.any(-1), rng.random(shape), 0),
        pooled_variance=pooled,
        histogram=histogram,
        below=rng.integers(0, 9, (*shape, 2)),
        cosine=cosine,
        cosine_tokens=tokens,
        nonfinite=rng.integers(0, 2, shape),
    )


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_statistics_survive_the_table_to_the_bit(seed: int) -> None:
    s = random_statistics(seed)
    taps = [Tap.BLOCK, Tap.MLP]
    table = from_parquet(to_parquet(tables.prompt_stats(s, ["a", "b", "c"], ["g", "g", "h"], taps)))
    assert table.num_rows == 24
    assert table["mean"].is_null().to_pylist() == [count == 0 for count in table["count"].to_pylist()]
    for column, tap in enumerate(taps):
        back, first = rows.statistics_of_tap(table, str(tap), s.epsilons)
        assert first["prompt_id"].to_pylist() == ["a", "b", "c"]
        assert first["group"].to_pylist() == ["g", "g", "h"]
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(back, name), getattr(s, name)[:, :, column])


def test_histograms_are_stored_compactly() -> None:
    histogram = np.zeros((2, NUM_BINS), np.int64)
    histogram[0, 300:310] = 7
    packed = rows.pack_histograms(histogram)
    assert packed.to_pylist()[0] == {"first": 300, "counts": [7] * 10}
    assert packed.to_pylist()[1]["counts"] == []
    assert (rows.unpack_histograms(packed) == histogram).all()


def test_spans_survive_the_table() -> None:
    cosine = np.array([[1.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
    spans = [(0, 1), (1, 1), (0, 2)]
    table = tables.span_stats(cosine, ["a", "b"], spans)
    angles = tables.angles_by_span(table)
    np.testing.assert_allclose(angles[0, 1].mean, [0.0, 1 / 3], atol=1e-12)
    np.testing.assert_allclose(angles[0, 2].mean, [1.0, 0.5])
    assert angles[0, 2].prompts.tolist() == [1, 1]
