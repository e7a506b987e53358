"""TimeSieve: a wavelet transform, an information bottleneck on each half, and a predictor (arXiv 2406.05036)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from stratoscope.forecasting.linear import AffineChain, block_diagonal, compose, parameters_of
from stratoscope.forecasting.options import Preset
from stratoscope.forecasting.wavelet import Wavelet, make_wavelet

Tensor = torch.Tensor
WIDENING = (10, 20, 40)
"""Widths of the predictor's layers in multiples of the lookback (the public code)."""


@dataclass(frozen=True)
class TimeSieveSettings:
    """Settings of a TimeSieve; the defaults are those of the public code.

    docs/methods/fts.md lists where the authors' code differs from their papers.
    """

    residuals: Literal[1, 2] = 2
    """How often the coefficients are added to the bottleneck's output: once in the paper, twice in the code."""
    predictor: Literal["wide", "mlp"] = "wide"
    """wide: four linear maps without activation; mlp: two, with GELU between them."""
    reconstruction_weight: float = 1e-4
    """Weight of the squared difference between the bottleneck's output and its input."""
    divergence_weight: float = 1e-7
    """Weight of the divergence of the latent from a standard normal."""
    reverse_weight: float = 0.0
    """Weight of the divergence of a standard normal from the latent, which the paper adds."""
    averaged: bool = False
    """Average these losses over the elements of a batch, like the error, instead of summing them."""
    shift: float = -5.0
    """Offset before the softplus that yields deviations, so that they start small."""
    samples_at_test: bool = False
    """Draw the latent at test time too, as the public code does; otherwise use its mean."""
    wavelet: str = "db1"
    """Name of the wavelet in PyWavelets."""

    @classmethod
    def from_preset(cls, preset: Preset) -> "TimeSieveSettings":
        """Return the settings of a preset."""
        if preset == "reference":
            return cls()
        # The paper weights neither divergence, and has no squared difference and no shift.
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
class BottleneckOutput:
    """Output of a bottleneck."""

    output: Tensor
    """Filtered coefficients, shape (B, C, width)."""
    loss: Tensor
    """Loss of each window, shape (B,)."""


class Bottleneck(nn.Module):
    """The information-filtering-and-compression block: an encoder to a Gaussian latent, and a decoder (paper, IFCB).

    Args:
        width: width of input, hidden layer, latent and output.
        settings: settings of the model.
    """

    def __init__(self, width: int, settings: TimeSieveSettings) -> None:
        super().__init__()
        self._settings = settings
        self.encoder = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.mean = nn.Linear(width, width)
        self.deviation = nn.Linear(width, width)
        self.decoder = nn.Linear(width, width)

    def forward(self, coefficients: Tensor) -> BottleneckOutput:
        """Filter coefficients, shape (B, C, width)."""
        settings = self._settings
        hidden = self.encoder(coefficients)
        mean, deviation = self.mean(hidden), functional.softplus(self.deviation(hidden) + settings.shift)
        sample = self.training or settings.samples_at_test
        latent = mean + deviation * torch.randn_like(deviation) if sample else mean
        change = self.decoder(latent)
        # The output is input + change, so the change is the reconstruction error.
        loss = settings.reconstruction_weight * change.square()
        loss = loss + settings.divergence_weight * divergence(mean, deviation)
        if settings.reverse_weight:
            loss = loss + settings.reverse_weight * reverse_divergence(mean, deviation)
        per_window = loss.mean(dim=(1, 2)) if settings.averaged else loss.sum(dim=(1, 2))
        return BottleneckOutput(coefficients + change, per_window)


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of normal distributions from the standard one, element by element."""
    return 0.5 * (mean.square() + deviation.square() - 1) - torch.log(deviation)


def reverse_divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return the divergence of the standard normal distribution from normal ones, element by element."""
    return 0.5 * ((1 + mean.square()) / deviation.square() - 1) + torch.log(deviation)


class _FrozenSieve:
    """Wavelet and both bottlenecks with frozen weights: adjacent affine maps are merged into one.

    Args:
        wavelet: wavelet of the model.
        blocks: bottlenecks of approximation and detail.
        lookback: number of input points T.
        settings: settings of the model.
    """

    def __init__(
        self, wavelet: Wavelet, blocks: tuple[Bottleneck, Bottleneck], lookback: int, settings: TimeSieveSettings
    ) -> None:
        self._settings, self._width = settings, wavelet.length(lookback)
        weight = parameters_of(blocks[0].decoder)[0]
        points, coefficients = (torch.eye(n, dtype=weight.dtype, device=weight.device) for n in (lookback, self._width))
        zeros = torch.zeros_like(coefficients)
        # Both directions are linear, so unit vectors give their matrices.
        decompose = torch.cat(wavelet.decompose(points), dim=-1).T
        halves = wavelet.reconstruct(coefficients, zeros, lookback), wavelet.reconstruct(zeros, coefficients, lookback)
        reconstruct = torch.cat(halves).T
        self._encoder = compose(
            [
                (decompose, weight.new_zeros(len(decompose))),
                block_diagonal([parameters_of(b.encoder[0]) for b in blocks]),
            ]
        )
        encoded = [parameters_of(b.encoder[2]) for b in blocks]
        means, deviations = (
            block_diagonal([compose([e, parameters_of(layer)]) for e, layer in zip(encoded, layers, strict=True)])
            for layers in ([b.mean for b in blocks], [b.deviation for b in blocks])
        )
        self._moments = torch.cat([means[0], deviations[0]]), torch.cat([means[1], deviations[1] + settings.shift])
        decoded = block_diagonal([parameters_of(b.decoder) for b in blocks])
        self._decoder = compose([decoded, (reconstruct, weight.new_zeros(lookback))])

    def __call__(self, series: Tensor, *, sample: bool) -> Tensor:
        """Return the reconstruction of a series, shape (B, C, T) both."""
        hidden = functional.gelu(functional.linear(series, *self._encoder))
        latent, deviation = functional.linear(hidden, *self._moments).chunk(2, dim=-1)
        deviation = functional.softplus(deviation)
        if sample:
            # The draws are those of the two bottlenecks applied in turn.
            halves = [deviation[..., : self._width], deviation[..., self._width :]]
            noise = [torch.randn_like(half) for half in halves]
            latent = latent + deviation * torch.cat(noise, dim=-1)
        # The transform is linear, so a residual of the coefficients is a residual of the series.
        return self._settings.residuals * series + functional.linear(latent, *self._decoder)


@dataclass(frozen=True, eq=False)
class Forecast:
    """Output of a forecaster for a batch."""

    values: Tensor
    """Forecast values, shape (B, H, C)."""
    loss: Tensor | None = None
    """Loss of the model itself for each window, shape (B,), which training adds to the error; None where the model has
    none and while it is frozen."""
    latent: Tensor | None = None
    """Reconstructed series, which similarity in the bottleneck space compares, shape (B, T, C); None without a
    bottleneck."""
    averaged: bool = False
    """Whether the model's loss of a batch is the mean over windows instead of the sum."""

    def batch_loss(self, losses: Tensor) -> Tensor:
        """Return the model's loss of a batch from the losses of its windows."""
        return losses.mean() if self.averaged else losses.sum()


class TimeSieve(nn.Module):
    """The TimeSieve forecaster.

    Args:
        lookback: number of input points T.
        horizon: number of points forecast H.
        settings: settings of the model.

    Raises:
        InputError: the lookback is not divisible by the wavelet.
    """

    def __init__(self, lookback: int, horizon: int, settings: TimeSieveSettings) -> None:
        super().__init__()
        self._settings, self._lookback = settings, lookback
        self._wavelet = make_wavelet(settings.wavelet)
        width = self._wavelet.length(lookback)
        self.approximation = Bottleneck(width, settings)
        self.detail = Bottleneck(width, settings)
        self._frozen_sieve: _FrozenSieve | None = None
        if settings.predictor == "wide":
            self.predictor: nn.Module = AffineChain([lookback, *(lookback * w for w in WIDENING), horizon])
        else:
            self.predictor = nn.Sequential(
                nn.Linear(lookback, 2 * lookback), nn.GELU(), nn.Linear(2 * lookback, horizon)
            )

    def forward(self, series: Tensor) -> Forecast:
        """Forecast (B, T, C)."""
        rows = series.transpose(1, 2)
        if self._frozen_sieve is None:
            rebuilt, loss = self._sieve(rows)
        else:
            sample = self.training or self._settings.samples_at_test
            rebuilt, loss = self._frozen_sieve(rows, sample=sample), None
        values = self.predictor(rebuilt).transpose(1, 2)
        return Forecast(values, loss, rebuilt.transpose(1, 2), averaged=self._settings.averaged)

    def _sieve(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstructed series, shape (B, C, T), and the bottlenecks' loss of each window."""
        approximation, detail = self._wavelet.decompose(rows)
        sieved = [block(half) for block, half in ((self.approximation, approximation), (self.detail, detail))]
        outputs = sieved[0].output, sieved[1].output
        if self._settings.residuals == 2:
            outputs = outputs[0] + approximation, outputs[1] + detail
        return self._wavelet.reconstruct(*outputs, self._lookback), sieved[0].loss + sieved[1].loss

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Merge adjacent affine maps while the block runs, in which the weights must not change and get no gradient."""
        with torch.no_grad():
            blocks = self.approximation, self.detail
            self._frozen_sieve = _FrozenSieve(self._wavelet, blocks, self._lookback, self._settings)
        try:
            yield
        finally:
            self._frozen_sieve = None
