import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.activations import reduce
from stratoscope.activations.reduce import Bins, RowLayout, TokenSums, merge_tokens, reduce_tokens
from stratoscope.activations.segments import Segments
from stratoscope.statistics.histogram import NUM_BINS, bin_of

CPU = torch.device("cpu")
ONE_PROMPT = Segments.from_mask(torch.ones(1, 8, dtype=torch.long))


def packed(x: torch.Tensor, bins: Bins, *, careful: bool = False) -> torch.Tensor:
    """The packed row of one prompt."""
    sums = TokenSums.empty(1, ONE_PROMPT, bins)
    sums.put([0], reduce_tokens(x[None], ONE_PROMPT, bins, careful=careful))
    return merge_tokens(sums, ONE_PROMPT, bins)[:, 0]


special = st.sampled_from([0.0, -0.0, 1e-45, 0.01, 1.0, 2.0**-40, 2.0**24, 3e38, float("inf"), float("nan")])
number = st.one_of(special, st.floats(width=32))


@settings(max_examples=200)
@given(st.lists(number, min_size=16, max_size=16), st.sets(st.sampled_from([1e-45, 1e-5, 0.01, 1.0, 1.05, 1e30])))
def test_every_number_is_counted_exactly(values: list[float], epsilons: set[float]) -> None:
    ordered = tuple(sorted(epsilons))
    layout = RowLayout(len(ordered))
    x = torch.tensor(values, dtype=torch.float32).view(8, 2)
    row = packed(x, Bins.build(ordered, CPU), careful=True)[0]
    flat = x.numpy().ravel()
    finite = flat[np.isfinite(flat)]
    assert row[layout.nonfinite] == flat.size - finite.size
    assert (row[layout.histogram].numpy() == np.bincount(bin_of(finite), minlength=NUM_BINS)).all()
    assert row[layout.below].tolist() == [int((np.abs(finite) < np.float32(e)).sum()) for e in ordered]
    if finite.size < flat.size:
        fast = packed(x, Bins.build(ordered, CPU))[0]
        assert not fast[:3].isfinite().all(), "the fast form must show that the careful one is needed"


def test_the_device_count_equals_the_host_count() -> None:
    """The scatter that a GPU takes runs on the CPU too, and counts the same."""
    index = torch.randint(0, 50, (1000,), dtype=torch.int32)
    ones = torch.ones((), dtype=torch.int64).expand(1000)
    scattered = torch.zeros(60, dtype=torch.int64).scatter_add_(0, index.long(), ones)
    assert torch.equal(reduce._count(index, 60), scattered)


def test_a_large_offset_costs_no_precision() -> None:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) + 4096.0
    row = packed(x, Bins.build((), CPU))[0].numpy()
    exact = x.double().numpy()
    np.testing.assert_allclose(row[1] / exact.size, exact.var(), rtol=1e-5)
    np.testing.assert_allclose(row[2], exact.mean(axis=0).var(ddof=1), rtol=1e-4)


def test_careful_and_fast_agree_on_finite_numbers() -> None:
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    bins = Bins.build((0.1,), CPU)
    fast, careful = (packed(x, bins, careful=flag) for flag in (False, True))
    torch.testing.assert_close(fast, careful, rtol=1e-5, atol=1e-7)
    assert fast.shape == (1, RowLayout(1).below.stop)


@pytest.mark.parametrize("mask", [[[1, 1, 0], [1, 0, 0]], [[0, 1, 1], [0, 0, 1]], [[1, 1, 1], [1, 1, 1]]])
def test_segments(mask: list[list[int]]) -> None:
    m = torch.tensor(mask)
    s = Segments.from_mask(m)
    x = torch.arange(6.0).view(2, 3, 1)
    assert s.take(x).flatten().tolist() == x.flatten()[m.flatten().bool()].tolist()
    assert s.sum(s.take(x)[None]).flatten().tolist() == (x.squeeze(2) * m).sum(1).tolist()
    assert s.spread(torch.tensor([[5.0, 6.0]])).flatten().tolist() == [5.0] * int(m[0].sum()) + [6.0] * int(m[1].sum())
    assert s.take(x).flatten()[s.last].tolist() == [x[r].flatten()[m[r].nonzero()[-1]].item() for r in range(2)]
