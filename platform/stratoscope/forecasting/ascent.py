"""Projected gradient ascent inside a ball around a batch; its result is a lower bound of the worst case."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from stratoscope.forecasting.options import Norm

Tensor = torch.Tensor
L2_SHARE = 0.1
"""Root mean square of the elements of a perturbation on the l2 sphere, relative to the linf radius."""


@dataclass(frozen=True)
class AscentSettings:
    """Settings of an ascent; the defaults are those of the public code."""

    radius: float = 0.15
    """Radius of the ball in standard units: of each element (linf), or of a window's Euclidean norm (l2)."""
    step: float = 0.01
    """Step size: of each element (linf), or of a whole window (l2)."""
    steps: int = 20
    """Number of steps."""
    norm: Norm = "linf"
    """Norm of the ball."""


def radius_scale(norm: Norm, elements: int) -> float:
    """Return the factor from a radius in linf to the comparable radius in a norm, for windows of so many elements.

    The l2 radius is the norm of a perturbation that moves each element by a tenth of the linf radius.
    """
    return 1.0 if norm == "linf" else L2_SHARE * elements**0.5


def ascend(
    objective: Callable[[Tensor], Tensor],
    windows: Tensor,
    settings: AscentSettings,
    generator: torch.Generator,
    *,
    keep_best: bool = False,
) -> Tensor:
    """Return a perturbation of each window inside the ball, found by gradient ascent from a random start.

    Args:
        objective: function to maximise, from perturbed windows (B, T, C) to a value per window (B,).
        windows: shape (B, T, C).
        settings: settings of the ascent.
        generator: source of the random start.
        keep_best: return the best perturbation visited, zero included, instead of the last one; the objective then
            never falls below its initial value.

    Returns:
        The perturbations, shape (B, T, C).

    Source: Madry et al., 'Towards deep learning models resistant to adversarial attacks', 2018; FTS, section 3.
    """
    start = torch.randn(windows.shape, generator=generator, dtype=windows.dtype).to(windows.device)
    delta = project(start * _scale(windows, settings), settings)
    best, best_values = torch.zeros_like(windows), None
    if keep_best:
        with torch.no_grad():
            best_values = objective(windows)
    for _ in range(settings.steps):
        delta.requires_grad_(True)
        values = objective(windows + delta)
        if not values.requires_grad:
            # The forecast does not depend on the windows.
            break
        (gradient,) = torch.autograd.grad(values.sum(), delta)
        delta = delta.detach()
        if best_values is not None:
            best, best_values = _better(best, best_values, delta, values.detach())
        delta = project(delta + _update(gradient, settings), settings)
    delta = delta.detach()
    if best_values is None:
        return delta
    with torch.no_grad():
        return _better(best, best_values, delta, objective(windows + delta))[0]


def project(delta: Tensor, settings: AscentSettings) -> Tensor:
    """Return the nearest perturbations inside the ball, shape (B, T, C)."""
    if settings.norm == "linf":
        return delta.clamp(-settings.radius, settings.radius)
    projected: Tensor = delta * (settings.radius / _lengths(delta)).clamp_max(1.0)[:, None, None]
    return projected


def _lengths(windows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(windows, dim=(1, 2)).clamp_min(1e-12)
    return lengths


def _scale(windows: Tensor, settings: AscentSettings) -> float:
    """Return the standard deviation of the start, which fills the ball in either norm."""
    per_window = windows[0].numel()
    return settings.radius if settings.norm == "linf" else settings.radius / per_window**0.5


def _update(gradient: Tensor, settings: AscentSettings) -> Tensor:
    if settings.norm == "linf":
        return settings.step * gradient.sign()
    return settings.step * gradient / _lengths(gradient)[:, None, None]


def _better(best: Tensor, best_values: Tensor, delta: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    improved = values > best_values
    return torch.where(improved[:, None, None], delta, best), torch.where(improved, values, best_values)
