"""Training of forecasters: plain, and fine-tuning of a plain one with a teacher."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from stratoscope.forecasting.faithful import FaithfulLoss, cached_weights, error_of, faithful_loss
from stratoscope.forecasting.options import Error
from stratoscope.forecasting.timesieve import Forecast

Tensor = torch.Tensor
INFERENCE_BATCH = 512
"""Windows of a forward pass without gradients."""


class DivergedError(RuntimeError):
    """Raised where a loss is not finite."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of a series, cut on demand."""

    values: Tensor
    """The series, shape (N, C)."""
    starts: Tensor
    """First row of each window, shape (W,)."""
    lookback: int
    """Number of rows that a forecast is made from."""
    horizon: int
    """Number of rows that are forecast."""

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the windows of these indices, shape (B, T, C), and the values that follow them, shape (B, H, C)."""
        offsets = torch.arange(self.lookback + self.horizon, device=self.starts.device)
        values = self.values[self.starts[indices, None] + offsets]
        return values[:, : self.lookback], values[:, self.lookback :]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all windows in order."""
        for indices in torch.split(torch.arange(len(self), device=self.starts.device), size):
            yield self.batch(indices)


@dataclass(frozen=True, eq=False)
class Data:
    """Windows that a forecaster is fitted to."""

    train: Windows
    """Windows to train on."""
    validation: Windows
    """Windows that decide which epoch is best."""


@dataclass(frozen=True)
class FitSettings:
    """Settings of training; the defaults are those of the papers, or of the public code where they give none."""

    epochs: int = 10
    """Maximum number of epochs."""
    batch: int = 32
    """Windows of a step."""
    learning_rate: float = 1e-4
    """Learning rate of Adam in the first two epochs."""
    decay: float = 0.5
    """Factor of the learning rate after every later epoch."""
    patience: int = 3
    """Epochs without a better validation error until training stops; 0 trains to the end and keeps the last weights."""
    error: Error = "mae"
    """Error that training minimises."""


@dataclass(frozen=True)
class Epoch:
    """Progress of training after an epoch."""

    epoch: int
    """Number of the epoch, from 1."""
    loss: float
    """Mean loss over the epoch."""
    validation: float
    """Error on the validation windows."""


OnEpoch = Callable[[Epoch], None]


def fit(model: nn.Module, data: Data, settings: FitSettings, seed: int, *, on_epoch: OnEpoch | None = None) -> None:
    """Train a forecaster in place; it ends with the weights of the best validation error.

    Args:
        model: forecaster, whose forward pass returns a `Forecast`; one without weights does not change.
        data: training and validation windows.
        settings: settings of training.
        seed: seed of the order of windows, and of the model's random draws.
        on_epoch: called after every epoch.

    Raises:
        DivergedError: the loss is not finite.
    """

    def loss_of(indices: Tensor) -> Tensor:
        windows, target = data.train.batch(indices)
        forecast: Forecast = model(windows)
        error = error_of(forecast.values, target, settings.error).mean()
        return error if forecast.loss is None else error + forecast.batch_loss(forecast.loss)

    _minimize(model, loss_of, data, settings, seed, on_epoch=on_epoch)


def fit_faithfully(
    model: nn.Module,
    data: Data,
    settings: FitSettings,
    loss: FaithfulLoss,
    seed: int,
    *,
    teacher: nn.Module | None = None,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Fine-tune a fitted forecaster in place to be faithful to a teacher.

    Args:
        model: fitted forecaster.
        data: training and validation windows.
        settings: settings of training.
        loss: settings of the loss.
        seed: seed of the order of windows, of the ascents, and of the model's random draws.
        teacher: forecaster that does not change; None takes the initial weights of the model.
        on_epoch: called after every epoch.

    Raises:
        DivergedError: the loss is not finite.

    Source: FTS (arXiv 2405.19647), section 3.
    """
    # The teacher is frozen, so its forecast is computed once.
    teacher_forecast = predict(model if teacher is None else teacher, data.train)
    generator = torch.Generator().manual_seed(seed)

    def loss_of(indices: Tensor) -> Tensor:
        windows, target = data.train.batch(indices)
        return faithful_loss(model, (windows, target, teacher_forecast[indices]), loss, generator)

    _minimize(model, loss_of, data, settings, seed, on_epoch=on_epoch)


def _minimize(
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    data: Data,
    settings: FitSettings,
    seed: int,
    *,
    on_epoch: OnEpoch | None,
) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return
    device = data.train.values.device
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)
    best, best_error, epochs_waited = None, math.inf, 0
    for epoch in range(settings.epochs):
        for group in optimizer.param_groups:
            # The second epoch keeps the rate of the first, as in the public code.
            group["lr"] = settings.learning_rate * settings.decay ** max(0, epoch - 1)
        model.train()
        total = torch.zeros((), device=device)
        batches = torch.split(torch.randperm(len(data.train), generator=order).to(device), settings.batch)
        for indices in batches:
            loss = loss_of(indices)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.detach()
        mean = float(total) / len(batches)
        validation = errors(predict(model, data.validation), data.validation)[settings.error]
        if not (math.isfinite(mean) and math.isfinite(validation)):
            raise DivergedError(f"the loss of epoch {epoch + 1} is not finite; choose a lower fit.learning_rate")
        if on_epoch is not None:
            on_epoch(Epoch(epoch + 1, mean, validation))
        if not settings.patience:
            continue
        if validation < best_error:
            best, best_error, epochs_waited = copy.deepcopy(model.state_dict()), validation, 0
        else:
            epochs_waited += 1
            if epochs_waited == settings.patience:
                break
    if best is not None:
        model.load_state_dict(best)


def predict(model: nn.Module, windows: Windows) -> Tensor:
    """Return the forecasts of all windows in order, shape (W, H, C)."""
    model.eval()
    with torch.no_grad(), cached_weights(model):
        return torch.cat([model(inputs).values for inputs, _ in windows.batches(INFERENCE_BATCH)])


def errors(forecasts: Tensor, windows: Windows) -> dict[str, float]:
    """Return the mean absolute and mean squared error of forecasts over windows, horizons and channels.

    Args:
        forecasts: forecasts of all windows, shape (W, H, C), in standard units.
        windows: the W windows.
    """
    absolute = squared = torch.zeros((), dtype=torch.float64, device=forecasts.device)
    for indices in torch.split(torch.arange(len(windows), device=forecasts.device), INFERENCE_BATCH):
        _, target = windows.batch(indices)
        difference = (forecasts[indices] - target).double()
        absolute = absolute + difference.abs().mean(dim=(1, 2)).sum()
        squared = squared + difference.square().mean(dim=(1, 2)).sum()
    mae, mse = (torch.stack([absolute, squared]) / len(windows)).tolist()  # the device is waited for once
    return {"mae": mae, "mse": mse}
