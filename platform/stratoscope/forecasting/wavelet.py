"""One level of a discrete wavelet transform along time, differentiable and on any device."""

from typing import Protocol

import ptwt
import torch

from stratoscope.errors import InputError

Tensor = torch.Tensor
HAAR = ("haar", "db1")
ROOT_HALF = 0.5**0.5


class Wavelet(Protocol):
    """A wavelet transform of one level."""

    def length(self, time: int) -> int:
        """Return the number of coefficients of each kind for a number of points."""

    def decompose(self, series: Tensor) -> tuple[Tensor, Tensor]:
        """Return approximation and detail, shape (..., K) each, of a series, shape (..., T)."""

    def reconstruct(self, approximation: Tensor, detail: Tensor, time: int) -> Tensor:
        """Return the series, shape (..., T), with these coefficients, shape (..., K) each."""


class Haar:
    """The Haar wavelet (db1): sums and differences of neighbours, without a convolution."""

    def length(self, time: int) -> int:
        """Return half the number of points.

        Raises:
            InputError: the number is odd.
        """
        if time % 2:
            raise InputError(f"the Haar wavelet cannot halve a lookback of {time} points; choose an even number")
        return time // 2

    def decompose(self, series: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums and differences of neighbours, divided by the square root of two."""
        even, odd = series[..., 0::2], series[..., 1::2]
        return (even + odd) * ROOT_HALF, (even - odd) * ROOT_HALF

    def reconstruct(self, approximation: Tensor, detail: Tensor, time: int) -> Tensor:
        """Return the series."""
        pairs = torch.stack([approximation + detail, approximation - detail], dim=-1) * ROOT_HALF
        return pairs.flatten(-2)[..., :time]


class FilterBank:
    """Any other wavelet, computed by ptwt with the signal mirrored at its ends.

    Args:
        name: name of the wavelet in PyWavelets.

    Raises:
        InputError: PyWavelets has no such wavelet.
    """

    def __init__(self, name: str) -> None:
        import pywt

        if name not in pywt.wavelist(kind="discrete"):
            raise InputError(f"wavelet {name!r} is unknown; known are {', '.join(pywt.families())} with their orders")
        self._name = name

    def length(self, time: int) -> int:
        """Return the number of coefficients of each kind for a number of points."""
        import pywt

        return int(pywt.dwt_coeff_len(time, pywt.Wavelet(self._name).dec_len, "symmetric"))

    def decompose(self, series: Tensor) -> tuple[Tensor, Tensor]:
        """Return approximation and detail."""
        approximation, detail = ptwt.wavedec(series, self._name, mode="symmetric", level=1)
        return approximation, detail

    def reconstruct(self, approximation: Tensor, detail: Tensor, time: int) -> Tensor:
        """Return the series."""
        return torch.as_tensor(ptwt.waverec([approximation, detail], self._name))[..., :time]


def make_wavelet(name: str) -> Wavelet:
    """Return a wavelet by its PyWavelets name.

    Raises:
        InputError: the name is unknown.
    """
    return Haar() if name in HAAR else FilterBank(name)
