"""Registry of the forecasters that can be audited."""

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
"""Learning rate of linear forecasters, from DLinear's code. Adam moves a weight by about this rate in a step, and the
weights of linear forecasters have far to move."""
PATCH_RATE = 1e-3
"""Learning rate of PatchTST and PatchTSMixer (ours); at 1e-4 they are far from convergence after six halving epochs."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a forecaster's input and output."""

    lookback: int
    """Number of input points."""
    horizon: int
    """Number of points forecast."""
    channels: int
    """Number of columns of the series."""


class Linear(nn.Module):
    """An affine map from the lookback to the horizon, shared by all channels."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.map = nn.Linear(shape.lookback, shape.horizon)

    def forward(self, series: Tensor) -> Forecast:
        """Forecast (B, T, C)."""
        return Forecast(self.map(series.transpose(1, 2)).transpose(1, 2))


class DLinear(nn.Module):
    """Separate affine maps of the moving average and of the remainder of a series.

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
    """Repeats the last value."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._horizon = shape.horizon

    def forward(self, series: Tensor) -> Forecast:
        """Forecast (B, T, C)."""
        return Forecast(series[:, -1:].expand(-1, self._horizon, -1))


class FromTransformers(nn.Module):
    """A forecaster from transformers, which standardises each window itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, series: Tensor) -> Forecast:
        """Forecast (B, T, C)."""
        return Forecast(self.model(past_values=series).prediction_outputs)


def _patch_settings(shape: Shape) -> dict[str, Any]:
    """Return settings of both models: patches that overlap by half, of 16 points or half of a short lookback."""
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
        **_patch_settings(shape),
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

    config = PatchTSMixerConfig(**_patch_settings(shape), d_model=32, num_layers=3)
    return FromTransformers(PatchTSMixerForPrediction(config))


@dataclass(frozen=True)
class Forecaster:
    """A kind of forecaster."""

    make: Callable[[Shape, TimeSieveSettings], nn.Module]
    """Function that returns a model with random weights from torch's global generator; its forward pass returns a
    `Forecast`."""
    trainable: bool = True
    """Whether the model has weights to train."""
    learning_rate: float = 1e-4
    """Default learning rate of Adam in the first epoch."""


_OWN = {
    "timesieve": Forecaster(lambda shape, settings: TimeSieve(shape.lookback, shape.horizon, settings)),
    "dlinear": Forecaster(lambda shape, _: DLinear(shape), learning_rate=LINEAR_RATE),
    "linear": Forecaster(lambda shape, _: Linear(shape), learning_rate=LINEAR_RATE),
    "last_value": Forecaster(lambda shape, _: LastValue(shape), trainable=False),
    "patchtst": Forecaster(lambda shape, _: _patch_tst(shape), learning_rate=PATCH_RATE),
    "patchtsmixer": Forecaster(lambda shape, _: _patch_mixer(shape), learning_rate=PATCH_RATE),
}
FORECASTERS = Registry(_OWN, "stratoscope.forecasters", Forecaster)
