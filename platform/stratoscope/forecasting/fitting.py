"""Fitting a forecaster to a series: plain, and faithful from a plain one."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from stratoscope.forecasting.faithful import Error, FaithfulLoss, cached_weights, error_of, faithful_loss
from stratoscope.forecasting.timesieve import Forecast

Tensor = torch.Tensor
JUDGED_AT_ONCE = 512
"""Windows of a pass in which nothing is learnt."""


class DivergedError(RuntimeError):
    """The loss was no number."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of a series, cut when they are asked for."""

    values: Tensor
    """The series, shape (N, C)."""
    starts: Tensor
    """Of the windows, shape (W,)."""
    lookback: int
    horizon: int

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return some windows, shape (B, T, C), and what comes after them, shape (B, H, C)."""
        whole = self.lookback + self.horizon
        places = self.starts[numbers, None] + torch.arange(whole, device=self.starts.device)
        cut = self.values[places]
        return cut[:, : self.lookback], cut[:, self.lookback :]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all windows in order."""
        for numbers in torch.split(torch.arange(len(self), device=self.starts.device), size):
            yield self.batch(numbers)


@dataclass(frozen=True, eq=False)
class Data:
    """What a forecaster is fitted to."""

    train: Windows
    validation: Windows


@dataclass(frozen=True)
class FitSettings:
    """How a forecaster is fitted; the defaults are those of the papers, and of the code where they are silent."""

    epochs: int = 10
    batch: int = 32
    learning_rate: float = 1e-4
    decay: float = 0.5
    """Of the learning rate, after every epoch but the first."""
    patience: int = 3
    """Epochs without a better validation error until fitting ends; 0 goes on to the last and keeps its weights."""
    error: Error = "mae"


@dataclass(frozen=True)
class Epoch:
    """How an epoch went."""

    number: int
    loss: float
    validation: float


Told = Callable[[Epoch], None]


def fit(model: nn.Module, data: Data, settings: FitSettings, seed: int, *, told: Told | None = None) -> None:
    """Fit a forecaster in place, and leave it with the weights of the best validation error.

    Args:
        model: whose forward pass returns a `Forecast`; one without weights is left as it is.
        data: windows to learn from, and to judge by.
        settings: of the fit.
        seed: of the order of windows, and of all that the model draws.
        told: is told of every epoch.

    Raises:
        DivergedError: the loss is no number.
    """

    def loss(numbers: Tensor) -> Tensor:
        windows, target = data.train.batch(numbers)
        found: Forecast = model(windows)
        error = error_of(found.values, target, settings.error).mean()
        return error if found.loss is None else error + found.of_batch(found.loss)

    _descend(model, loss, data, settings, seed, told=told)


def fit_faithfully(
    model: nn.Module, data: Data, settings: FitSettings, loss: FaithfulLoss, seed: int, *, told: Told | None = None
) -> None:
    """Make a fitted forecaster faithful, in place: it is its own teacher, as it was.

    Args:
        model: that was fitted.
        data: windows to learn from, and to judge by.
        settings: of the fit.
        loss: that is made small.
        seed: of the order of windows, of the ascents, and of all that the model draws.
        told: is told of every epoch.

    Raises:
        DivergedError: the loss is no number.

    Source: FTS (arXiv 2405.19647), section 3.
    """
    # The teacher stands still, so what it forecasts is computed once.
    taught = predict(model, data.train)
    generator = torch.Generator().manual_seed(seed)

    def loss_of(numbers: Tensor) -> Tensor:
        windows, target = data.train.batch(numbers)
        return faithful_loss(model, (windows, target, taught[numbers]), loss, generator)

    _descend(model, loss_of, data, settings, seed, told=told)


def _descend(
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    data: Data,
    settings: FitSettings,
    seed: int,
    *,
    told: Told | None,
) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return
    device = data.train.values.device
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)
    best, best_error, waited = None, math.inf, 0
    for epoch in range(settings.epochs):
        for group in optimiser.param_groups:
            # The second epoch goes on at the rate of the first, as in the public code.
            group["lr"] = settings.learning_rate * settings.decay ** max(0, epoch - 1)
        model.train()
        total = torch.zeros((), device=device)
        batches = torch.split(torch.randperm(len(data.train), generator=order).to(device), settings.batch)
        for numbers in batches:
            loss = loss_of(numbers)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            total += loss.detach()
        mean = float(total) / len(batches)
        judged = errors(predict(model, data.validation), data.validation)[settings.error]
        if not (math.isfinite(mean) and math.isfinite(judged)):
            raise DivergedError(f"the loss of epoch {epoch + 1} was no number; take a lower fit.learning_rate")
        if told is not None:
            told(Epoch(epoch + 1, mean, judged))
        if not settings.patience:
            continue
        if judged < best_error:
            best, best_error, waited = copy.deepcopy(model.state_dict()), judged, 0
        else:
            waited += 1
            if waited == settings.patience:
                break
    if best is not None:
        model.load_state_dict(best)


def predict(model: nn.Module, windows: Windows) -> Tensor:
    """Return what a forecaster makes of windows, in order, shape (W, H, C)."""
    model.eval()
    with torch.no_grad(), cached_weights(model):
        return torch.cat([model(given).values for given, _ in windows.batches(JUDGED_AT_ONCE)])


def errors(found: Tensor, windows: Windows) -> dict[str, float]:
    """Return mean absolute and mean squared error of forecasts, over windows, horizons and channels.

    Args:
        found: forecasts of all windows, shape (W, H, C), in standard units.
        windows: W of them.
    """
    absolute = squared = 0.0
    for numbers in torch.split(torch.arange(len(windows), device=found.device), JUDGED_AT_ONCE):
        _, target = windows.batch(numbers)
        off = (found[numbers] - target).double()
        absolute += off.abs().mean(dim=(1, 2)).sum().item()
        squared += off.square().mean(dim=(1, 2)).sum().item()
    return {"mae": absolute / len(windows), "mse": squared / len(windows)}
