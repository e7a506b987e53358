"""Registry of perturbations: noise on a forecaster's input or parameters, and missing values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from stratoscope.extensions import Registry
from stratoscope.forecasting.decomposition import moving_average
from stratoscope.forecasting.timesieve import Bottleneck

Tensor = torch.Tensor
Disturb = Callable[[Tensor, float, torch.Generator], Tensor]


def gaussian(windows: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Add normal noise; the level is its standard deviation in standard units."""
    return windows + level * _normal(windows, generator)


def residual(windows: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Add normal noise scaled by the residual of each window, its difference from a moving average.

    Source: FTS derives input noise from the residual of a decomposition but does not publish the method: ours.
    """
    rows = windows.transpose(1, 2)
    deviation = (rows - moving_average(rows)).std(dim=2, keepdim=True).transpose(1, 2)
    return windows + level * deviation * _normal(windows, generator)


def missing(windows: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Drop a share of the values; each takes the last known value, or the mean of the series where there is none."""
    known = torch.rand(windows.shape, generator=generator).to(windows.device) >= level
    position = torch.arange(windows.shape[1], device=windows.device)[None, :, None].expand_as(windows)
    last = torch.where(known, position, -1).cummax(dim=1).values
    filled = windows.gather(1, last.clamp_min(0))
    return torch.where(last >= 0, filled, torch.zeros_like(filled))


@dataclass(frozen=True)
class Perturbation:
    """A perturbation of a fitted forecaster."""

    disturb: Disturb | None
    """Function of windows (B, T, C) in standard units, a level and a generator that returns perturbed windows; None for
    perturbations that need the model."""


PARAMETER = "parameter"
"""Normal noise on the bottleneck's parameters; the level is relative to the standard deviation of each tensor."""
ADVERSARIAL = "adversarial"
"""The input perturbation that gradient ascent on the error finds; no element changes by more than the level."""
_OWN = {
    "gaussian": Perturbation(gaussian),
    "residual": Perturbation(residual),
    "missing": Perturbation(missing),
    PARAMETER: Perturbation(None),
    ADVERSARIAL: Perturbation(None),
}
PERTURBATIONS = Registry(_OWN, "stratoscope.perturbations", Perturbation)


@contextmanager
def perturbed_parameters(model: nn.Module, level: float, generator: torch.Generator) -> Iterator[None]:
    """Add noise to the parameters of a model's bottlenecks while the block runs.

    Args:
        model: forecaster; one without a bottleneck does not change.
        level: standard deviation of the noise relative to that of each tensor.
        generator: source of the noise.

    Source: FTS adds Gaussian noise to the IFCB layer but does not publish its size or code: ours.
    """
    parameters = [p for bottleneck in _bottlenecks(model) for p in bottleneck.parameters()]
    originals = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(level * parameter.std(correction=0) * _normal(parameter, generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.copy_(original)


def has_bottleneck(model: nn.Module) -> bool:
    """Return whether a model has a bottleneck, whose parameters can be perturbed."""
    return bool(_bottlenecks(model))


def _bottlenecks(model: nn.Module) -> list[Bottleneck]:
    return [module for module in model.modules() if isinstance(module, Bottleneck)]


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
