"""The wavelet pair against PyWavelets, and its inverse."""

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.errors import InputError
from stratoscope.forecasting import make_wavelet


@given(st.sampled_from(["db1", "haar", "db2", "sym4", "coif1"]), st.integers(8, 40), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_series_is_reconstructed_from_its_coefficients(name: str, half: int, seed: int) -> None:
    series = torch.randn(2, 3, 2 * half, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wavelet = make_wavelet(name)
    approximation, detail = wavelet.decompose(series)
    assert approximation.shape == detail.shape == (2, 3, wavelet.length(2 * half))
    torch.testing.assert_close(wavelet.reconstruct(approximation, detail, 2 * half), series, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["db1", "db2"])
def test_coefficients_are_those_of_pywavelets(name: str) -> None:
    series = torch.randn(4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coefficients = make_wavelet(name).decompose(series)
    expected = pywt.dwt(series.numpy(), name, mode="symmetric")
    for values, expected_values in zip(coefficients, expected, strict=True):
        np.testing.assert_allclose(values.numpy(), expected_values, atol=1e-12)


def test_both_directions_are_differentiable() -> None:
    for name in ("db1", "db2"):
        wavelet = make_wavelet(name)
        series = torch.randn(1, 8, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda s, w=wavelet: w.reconstruct(*w.decompose(s), 8), series)
        assert torch.autograd.gradcheck(wavelet.decompose, series)


def test_an_odd_lookback_and_an_unknown_wavelet_are_refused() -> None:
    with pytest.raises(InputError, match="cannot halve a lookback of 25"):
        make_wavelet("db1").length(25)
    with pytest.raises(InputError, match="is unknown"):
        make_wavelet("db1000")
