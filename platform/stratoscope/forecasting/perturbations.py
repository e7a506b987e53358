"""What a fitted forecaster is met with: noise on its input, on its parts, and gaps."""

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
    """Add normal noise of a standard deviation, in standard units."""
    return windows + level * _normal(windows, generator)


def residual(windows: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Add normal noise as large as each window's own residual, its difference from a moving average, times the level.

    Source: FTS says that input noise is built from the residual of a decomposition; how, could not be recovered: ours.
    """
    rows = windows.transpose(1, 2)
    spread = (rows - moving_average(rows)).std(dim=2, keepdim=True).transpose(1, 2)
    return windows + level * spread * _normal(windows, generator)


def missing(windows: Tensor, level: float, generator: torch.Generator) -> Tensor:
    """Lose a share of the values; each is replaced by the last one known, or the mean of the series where none is."""
    kept = torch.rand(windows.shape, generator=generator).to(windows.device) >= level
    place = torch.arange(windows.shape[1], device=windows.device)[None, :, None].expand_as(windows)
    last = torch.where(kept, place, -1).cummax(dim=1).values
    filled = windows.gather(1, last.clamp_min(0))
    return torch.where(last >= 0, filled, torch.zeros_like(filled))


@dataclass(frozen=True)
class Perturbation:
    """Something that a fitted forecaster is met with."""

    disturb: Disturb | None
    """Windows (B, T, C) in standard units, a level and a generator -> perturbed windows; None of those that do not
    act on the input alone."""


PARAMETER = "parameter"
"""Normal noise on the bottleneck's parameters, relative to the standard deviation of each tensor."""
ADVERSARIAL = "adversarial"
"""The perturbation of the input, no element by more than the level, that ascent on the error finds."""
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
    """Put noise on the parameters of a model's bottlenecks while the block runs.

    Args:
        model: without a bottleneck, it is left as it is.
        level: standard deviation of the noise by that of each tensor.
        generator: of the noise.

    Source: FTS perturbs the IFCB layer by Gaussian noise; its size and code were not published: ours.
    """
    own = [p for bottleneck in _bottlenecks(model) for p in bottleneck.parameters()]
    before = [p.detach().clone() for p in own]
    with torch.no_grad():
        for parameter in own:
            parameter.add_(level * parameter.std(correction=0) * _normal(parameter, generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(own, before, strict=True):
                parameter.copy_(value)


def has_bottleneck(model: nn.Module) -> bool:
    """Tell whether a model has anything that parameter noise is put on."""
    return bool(_bottlenecks(model))


def _bottlenecks(model: nn.Module) -> list[Bottleneck]:
    return [module for module in model.modules() if isinstance(module, Bottleneck)]


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
