"""TimeSieve: a wavelet pair, an information bottleneck on each half, and a predictor (arXiv 2406.05036)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from stratoscope.forecasting.linear import AffineChain, compose, parameters_of, side_by_side
from stratoscope.forecasting.wavelet import Wavelet, make_wavelet

Tensor = torch.Tensor
Preset = Literal["reference", "paper"]
WIDENING = (10, 20, 40)
"""Widths of the predictor by the lookback (the public code)."""


@dataclass(frozen=True)
class TimeSieveSettings:
    """How a TimeSieve is built; the defaults are those of the public code.

    Source of the differences: the papers against the code that their authors published, docs/faithfulness.md.
    """

    residuals: Literal[1, 2] = 2
    """How often coefficients are added to what the bottleneck makes of them: once in the paper, twice in the code."""
    predictor: Literal["wide", "mlp"] = "wide"
    """wide: four linear maps without activation; mlp: two, with GELU between them."""
    reconstruction_weight: float = 1e-4
    """Of the squared difference of the bottleneck's output from its input."""
    divergence_weight: float = 1e-7
    """Of the divergence of the latent from a standard normal."""
    reverse_weight: float = 0.0
    """Of the divergence of a standard normal from the latent, which the paper has as well."""
    averaged: bool = False
    """Take the means of these over all elements of a batch, as of the error, rather than their sums."""
    shift: float = -5.0
    """Added before the softplus that makes deviations, so that they begin small."""
    samples_at_test: bool = False
    """Draw the latent at test time, too, as the public code does; otherwise take its mean."""
    wavelet: str = "db1"

    @classmethod
    def of(cls, preset: Preset) -> "TimeSieveSettings":
        """Return the settings of a preset."""
        if preset == "reference":
            return cls()
        # The paper weighs neither divergence, and has neither squared difference nor shift.
        return cls(
            residuals=1,
            predictor="mlp",
            reconstruction_weight=0.0,
            divergence_weight=1.0,
            reverse_weight=1.0,
            averaged=True,
            shift=0.0,
        )


@dataclass(frozen=True, eq=False)
class Sieved:
    """What a bottleneck makes of coefficients."""

    output: Tensor
    """Shape of the coefficients."""
    loss: Tensor
    """Of each window, shape (B,)."""


class Bottleneck(nn.Module):
    """The information-filtering-and-compression block: an encoder to a Gaussian latent, and a decoder (paper, IFCB).

    Args:
        width: of input, hidden layer, latent and output.
        settings: of the model.
    """

    def __init__(self, width: int, settings: TimeSieveSettings) -> None:
        super().__init__()
        self._settings = settings
        self.encoder = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.mean = nn.Linear(width, width)
        self.deviation = nn.Linear(width, width)
        self.decoder = nn.Linear(width, width)

    def forward(self, coefficients: Tensor) -> Sieved:
        """Filter coefficients, shape (B, C, width)."""
        settings = self._settings
        hidden = self.encoder(coefficients)
        mean, deviation = self.mean(hidden), functional.softplus(self.deviation(hidden) + settings.shift)
        draws = self.training or settings.samples_at_test
        latent = mean + deviation * torch.randn_like(deviation) if draws else mean
        change = self.decoder(latent)
        # The output is input + change, so the reconstruction error is that of the change.
        loss = settings.reconstruction_weight * change.square()
        loss = loss + settings.divergence_weight * divergence(mean, deviation)
        if settings.reverse_weight:
            loss = loss + settings.reverse_weight * reverse_divergence(mean, deviation)
        of_window = loss.mean(dim=(1, 2)) if settings.averaged else loss.sum(dim=(1, 2))
        return Sieved(coefficients + change, of_window)


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of normal distributions from the standard one, element by element."""
    return 0.5 * (mean.square() + deviation.square() - 1) - torch.log(deviation)


def reverse_divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return the divergence of the standard normal distribution from normal ones, element by element."""
    return 0.5 * ((1 + mean.square()) / deviation.square() - 1) + torch.log(deviation)


class _StandingSieve:
    """Wavelet and both bottlenecks with weights that stand still: all affine maps between two bends are one.

    Args:
        wavelet: of the model.
        blocks: bottlenecks of approximation and detail.
        lookback: T points.
        settings: of the model.
    """

    def __init__(
        self, wavelet: Wavelet, blocks: tuple[Bottleneck, Bottleneck], lookback: int, settings: TimeSieveSettings
    ) -> None:
        self._settings, self._width = settings, wavelet.length(lookback)
        weight = parameters_of(blocks[0].decoder)[0]
        points, places = (torch.eye(n, dtype=weight.dtype, device=weight.device) for n in (lookback, self._width))
        none = torch.zeros_like(places)
        # Both directions are linear, so what they do is what they do to unit vectors.
        decompose = torch.cat(wavelet.decompose(points), dim=-1).T
        halves = wavelet.reconstruct(places, none, lookback), wavelet.reconstruct(none, places, lookback)
        reconstruct = torch.cat(halves).T
        self._into = compose(
            [(decompose, weight.new_zeros(len(decompose))), side_by_side([parameters_of(b.encoder[0]) for b in blocks])]
        )
        encoded = [parameters_of(b.encoder[2]) for b in blocks]
        means, deviations = (
            side_by_side([compose([e, parameters_of(layer)]) for e, layer in zip(encoded, layers, strict=True)])
            for layers in ([b.mean for b in blocks], [b.deviation for b in blocks])
        )
        self._moments = torch.cat([means[0], deviations[0]]), torch.cat([means[1], deviations[1] + settings.shift])
        decoded = side_by_side([parameters_of(b.decoder) for b in blocks])
        self._out_of = compose([decoded, (reconstruct, weight.new_zeros(lookback))])

    def __call__(self, series: Tensor, *, draws: bool) -> Tensor:
        """Return the rebuilt series, shape (B, C, T), of a series of that shape."""
        hidden = functional.gelu(functional.linear(series, *self._into))
        latent, deviation = functional.linear(hidden, *self._moments).chunk(2, dim=-1)
        deviation = functional.softplus(deviation)
        if draws:
            # As many draws in the same order as when the bottlenecks work one after the other.
            halves = [deviation[..., : self._width], deviation[..., self._width :]]
            noise = [torch.randn_like(half) for half in halves]
            latent = latent + deviation * torch.cat(noise, dim=-1)
        # What is added to coefficients that are themselves left as they are is added to the series.
        return self._settings.residuals * series + functional.linear(latent, *self._out_of)


@dataclass(frozen=True, eq=False)
class Forecast:
    """What a forecaster makes of a batch."""

    values: Tensor
    """Shape (B, H, C)."""
    loss: Tensor | None = None
    """Of the model itself, besides the error of the forecast, of each window, shape (B,); None where it has none, or
    stands still."""
    latent: Tensor | None = None
    """What similarity in the bottleneck space compares, shape (B, T, C); None where a forecaster has no bottleneck."""
    averaged: bool = False
    """A batch's own loss is the mean of its windows', not their sum."""

    def of_batch(self, losses: Tensor) -> Tensor:
        """Return the model's own loss of a batch, from those of its windows."""
        return losses.mean() if self.averaged else losses.sum()


class TimeSieve(nn.Module):
    """The forecaster.

    Args:
        lookback: T points.
        horizon: H points.
        settings: of the model.

    Raises:
        InputError: the wavelet cannot divide the lookback.
    """

    def __init__(self, lookback: int, horizon: int, settings: TimeSieveSettings) -> None:
        super().__init__()
        self._settings, self._lookback = settings, lookback
        self._wavelet = make_wavelet(settings.wavelet)
        width = self._wavelet.length(lookback)
        self.approximation = Bottleneck(width, settings)
        self.detail = Bottleneck(width, settings)
        self._standing: _StandingSieve | None = None
        if settings.predictor == "wide":
            self.predictor: nn.Module = AffineChain([lookback, *(lookback * w for w in WIDENING), horizon])
        else:
            self.predictor = nn.Sequential(
                nn.Linear(lookback, 2 * lookback), nn.GELU(), nn.Linear(2 * lookback, horizon)
            )

    def forward(self, series: Tensor) -> Forecast:
        """Forecast (B, T, C)."""
        given = series.transpose(1, 2)
        if self._standing is None:
            rebuilt, own = self._sieve(given)
        else:
            rebuilt, own = self._standing(given, draws=self.training or self._settings.samples_at_test), None
        values = self.predictor(rebuilt).transpose(1, 2)
        return Forecast(values, own, rebuilt.transpose(1, 2), averaged=self._settings.averaged)

    def _sieve(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rebuilt series, shape (B, C, T), and the bottlenecks' loss of each window."""
        approximation, detail = self._wavelet.decompose(given)
        sieved = [block(half) for block, half in ((self.approximation, approximation), (self.detail, detail))]
        outputs = sieved[0].output, sieved[1].output
        if self._settings.residuals == 2:
            outputs = outputs[0] + approximation, outputs[1] + detail
        return self._wavelet.reconstruct(*outputs, self._lookback), sieved[0].loss + sieved[1].loss

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Multiply out what the weights allow while the block runs, in which they neither change nor learn."""
        with torch.no_grad():
            blocks = self.approximation, self.detail
            self._standing = _StandingSieve(self._wavelet, blocks, self._lookback, self._settings)
        try:
            yield
        finally:
            self._standing = None
