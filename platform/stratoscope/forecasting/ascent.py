"""Projected gradient ascent inside a ball around a batch: the worst that is found, not the worst there is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Tensor = torch.Tensor
Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class AscentSettings:
    """How a perturbation is sought; the defaults are those of the public code."""

    radius: float = 0.15
    """Of the ball, in standard units: of each element (linf), or of a window's root of the sum of squares (l2)."""
    step: float = 0.01
    """Of linf, what each element moves; of l2, how far a window moves."""
    steps: int = 20
    norm: Norm = "linf"


def ascend(
    objective: Callable[[Tensor], Tensor],
    windows: Tensor,
    settings: AscentSettings,
    generator: torch.Generator,
    *,
    keep_best: bool = False,
) -> Tensor:
    """Return a perturbation of each window inside the ball, found by going uphill from a random start.

    Args:
        objective: of perturbed windows, shape (B, T, C), a value for each, shape (B,), to be made large.
        windows: shape (B, T, C).
        settings: of the ascent.
        generator: of the start.
        keep_best: return the best perturbation met, no perturbation included, rather than the last; then the objective
            never ends below where it was.

    Returns:
        The perturbations, shape (B, T, C).

    Source: Madry et al., 'Towards deep learning models resistant to adversarial attacks', 2018; FTS, section 3.
    """
    start = torch.randn(windows.shape, generator=generator, dtype=windows.dtype).to(windows.device)
    delta = project(start * _scale(windows, settings), settings)
    best, reached = torch.zeros_like(windows), None
    if keep_best:
        with torch.no_grad():
            reached = objective(windows)
    for _ in range(settings.steps):
        delta.requires_grad_(True)
        values = objective(windows + delta)
        if not values.requires_grad:
            # Whatever is forecast does not depend on the windows.
            break
        (gradient,) = torch.autograd.grad(values.sum(), delta)
        delta = delta.detach()
        if reached is not None:
            best, reached = _better(best, reached, delta, values.detach())
        delta = project(delta + _move(gradient, settings), settings)
    delta = delta.detach()
    if reached is None:
        return delta
    with torch.no_grad():
        return _better(best, reached, delta, objective(windows + delta))[0]


def project(delta: Tensor, settings: AscentSettings) -> Tensor:
    """Return the nearest perturbations inside the ball, shape (B, T, C)."""
    if settings.norm == "linf":
        return delta.clamp(-settings.radius, settings.radius)
    length = _lengths(delta)
    inside: Tensor = delta * (settings.radius / length).clamp_max(1.0)[:, None, None]
    return inside


def _lengths(windows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(windows, dim=(1, 2)).clamp_min(1e-12)
    return lengths


def _scale(windows: Tensor, settings: AscentSettings) -> float:
    """Return the standard deviation of the start, so that it fills the ball in either norm."""
    per_window = windows[0].numel()
    return settings.radius if settings.norm == "linf" else settings.radius / per_window**0.5


def _move(gradient: Tensor, settings: AscentSettings) -> Tensor:
    if settings.norm == "linf":
        return settings.step * gradient.sign()
    length = _lengths(gradient)
    return settings.step * gradient / length[:, None, None]


def _better(best: Tensor, reached: Tensor, delta: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    improved = values > reached
    return torch.where(improved[:, None, None], delta, best), torch.where(improved, values, reached)
