"""The forecasters that can be audited, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from stratoscope.extensions import Registry
from stratoscope.forecasting.decomposition import moving_average
from stratoscope.forecasting.timesieve import Forecast, TimeSieve, TimeSieveSettings

Tensor = torch.Tensor
LINEAR_RATE = 5e-3
"""Of one linear map: Adam moves a weight by about the rate in a step, and these have to go far (DLinear's own code)."""
PATCH_RATE = 1e-3
"""Of the small ones of transformers; at 1e-4 six halving epochs leave them far from where they end (ours)."""


@dataclass(frozen=True)
class Shape:
    """Of what a forecaster sees and forecasts."""

    lookback: int
    horizon: int
    channels: int


class Linear(nn.Module):
    """One affine map from the lookback to the horizon, the same for all channels."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.map = nn.Linear(shape.lookback, shape.horizon)

    def forward(self, series: Tensor) -> Forecast:
        """Forecast (B, T, C)."""
        return Forecast(self.map(series.transpose(1, 2)).transpose(1, 2))


class DLinear(nn.Module):
    """A moving average and the rest of the series, each with an affine map of its own.

    Source: Zeng et al., 'Are transformers effective for time series forecasting?', 2023.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.trend = nn.Linear(shape.lookback, shape.horizon)
        self.rest = nn.Linear(shape.lookback, shape.horizon)

    def forward(self, series: Tensor) -> Forecast:
        """Forecast (B, T, C)."""
        rows = series.transpose(1, 2)
        trend = moving_average(rows)
        return Forecast((self.trend(trend) + self.rest(rows - trend)).transpose(1, 2))


class LastValue(nn.Module):
    """The last value, for ever."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._horizon = shape.horizon

    def forward(self, series: Tensor) -> Forecast:
        """Forecast (B, T, C)."""
        return Forecast(series[:, -1:].expand(-1, self._horizon, -1))


class FromTransformers(nn.Module):
    """A forecaster of transformers, with its own standardisation of each window."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, series: Tensor) -> Forecast:
        """Forecast (B, T, C)."""
        return Forecast(self.model(past_values=series).prediction_outputs)


def _common(shape: Shape) -> dict[str, Any]:
    """Return what both take: patches of 16 points, or less of a short lookback, that overlap by half."""
    length = min(16, shape.lookback // 2)
    return {
        "num_input_channels": shape.channels,
        "context_length": shape.lookback,
        "prediction_length": shape.horizon,
        "patch_length": length,
        "patch_stride": max(1, length // 2),
        "loss": "mse",
        "scaling": "std",
    }


def _patch_tst(shape: Shape) -> nn.Module:
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    config = PatchTSTConfig(
        **_common(shape),
        d_model=64,
        num_attention_heads=4,
        num_hidden_layers=2,
        ffn_dim=128,
        attention_dropout=0.1,
        ff_dropout=0.1,
        path_dropout=0.0,
        head_dropout=0.0,
    )
    return FromTransformers(PatchTSTForPrediction(config))


def _patch_mixer(shape: Shape) -> nn.Module:
    from transformers import PatchTSMixerConfig, PatchTSMixerForPrediction

    config = PatchTSMixerConfig(
        **_common(shape),
        d_model=32,
        num_layers=3,
    )
    return FromTransformers(PatchTSMixerForPrediction(config))


@dataclass(frozen=True)
class Forecaster:
    """A kind of forecaster."""

    make: Callable[[Shape, TimeSieveSettings], nn.Module]
    """Returns one with random weights, from torch's own generator; its forward pass returns a `Forecast`."""
    trainable: bool = True
    """Whether it has weights, and so anything that training could make faithful."""
    learning_rate: float = 1e-4
    """Of Adam in the first epoch, unless it is told otherwise."""


_OWN = {
    "timesieve": Forecaster(lambda shape, settings: TimeSieve(shape.lookback, shape.horizon, settings)),
    "dlinear": Forecaster(lambda shape, _: DLinear(shape), learning_rate=LINEAR_RATE),
    "linear": Forecaster(lambda shape, _: Linear(shape), learning_rate=LINEAR_RATE),
    "last_value": Forecaster(lambda shape, _: LastValue(shape), trainable=False),
    "patchtst": Forecaster(lambda shape, _: _patch_tst(shape), learning_rate=PATCH_RATE),
    "patchtsmixer": Forecaster(lambda shape, _: _patch_mixer(shape), learning_rate=PATCH_RATE),
}
FORECASTERS = Registry(_OWN, "stratoscope.forecasters", Forecaster)
