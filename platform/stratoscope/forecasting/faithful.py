"""Faithfulness of a forecaster: the three conditions of FTS (arXiv 2405.19647) as losses and as measurements.

`sib`, similarity in the bottleneck space: a perturbed input is sieved to nearly the same. `cps`, consistency in the
prediction space: the fine-tuned model forecasts what the frozen teacher does. `snp`, stability under noise: a perturbed
input is forecast nearly the same. All distances are mean absolute differences, as in the public code; the paper leaves
them open.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stratoscope.forecasting.ascent import AscentSettings, ascend
from stratoscope.forecasting.linear import AffineChain
from stratoscope.forecasting.timesieve import Forecast, TimeSieve

Tensor = torch.Tensor
Attack = Literal["error", "conditions"]
AttackGoal = Literal["own", "conditions", "error"]


@dataclass(frozen=True)
class FaithfulWeights:
    """Weight of each condition beside the error of the forecast; the defaults are those of the public code."""

    sib: float = 0.05
    cps: float = 1.0
    snp: float = 0.05


Error = Literal["mae", "mse"]


@dataclass(frozen=True)
class FaithfulLoss:
    """The loss of faithful fine-tuning."""

    weights: FaithfulWeights = field(default_factory=FaithfulWeights)
    ascent: AscentSettings = field(default_factory=AscentSettings)
    attack: Attack = "error"
    """What the ascent makes large."""
    error: Error = "mae"
    """Error of the forecast that is made small, beside the conditions."""


def distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean absolute difference of each window, shape (B,)."""
    return (one - other).abs().flatten(1).mean(dim=1)


def error_of(values: Tensor, target: Tensor, error: Error) -> Tensor:
    """Return each window's error, shape (B,)."""
    return distance(values, target) if error == "mae" else (values - target).square().flatten(1).mean(dim=1)


@contextmanager
def cached_weights(model: nn.Module) -> Iterator[None]:
    """Let what is made of a model's weights alone be made once, while the block runs and does not change them."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, AffineChain):
                stack.enter_context(module.cached_weights())
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Keep a model as it is while the block runs, with affine maps multiplied out: no gradient, no running mean."""
    trained = [p for p in model.parameters() if p.requires_grad]
    running = [(m, m.momentum) for m in model.modules() if isinstance(m, _BatchNorm)]
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, (AffineChain, TimeSieve)):
                stack.enter_context(module.frozen())
        for parameter in trained:
            parameter.requires_grad_(False)
        for norm, _ in running:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in running:
                norm.momentum = momentum
            for parameter in trained:
                parameter.requires_grad_(True)


def attack_objective(model: nn.Module, windows: Tensor, target: Tensor, how: Attack) -> Callable[[Tensor], Tensor]:
    """Return what a perturbation is to make large.

    Args:
        model: forecaster, whose forward pass returns a `Forecast`.
        windows: unperturbed, shape (B, T, C).
        target: what comes after them, shape (B, H, C).
        how: error, the absolute error of the forecast, as in the public code; conditions, sib and snp, as in the paper,
            whose third distance does not depend on the perturbation.
    """
    if how == "error":
        return lambda perturbed: distance(model(perturbed).values, target)
    with torch.no_grad():
        there: Forecast = model(windows)

    def conditions(perturbed: Tensor) -> Tensor:
        here: Forecast = model(perturbed)
        moved = distance(here.values, there.values)
        if here.latent is not None and there.latent is not None:
            moved = moved + distance(here.latent, there.latent)
        return moved

    return conditions


def faithful_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], settings: FaithfulLoss, generator: torch.Generator
) -> Tensor:
    """Return the loss of faithful fine-tuning on a batch.

    The error and the model's own loss are those of perturbed windows, as in the public code.

    Args:
        model: that is tuned.
        batch: windows (B, T, C), what comes after them (B, H, C), and what the teacher forecasts (B, H, C).
        settings: of the loss.
        generator: of the ascent's start.

    Source: FTS, section 3, and the public code.
    """
    windows, target, taught = batch
    weights = settings.weights
    with cached_weights(model):
        with frozen(model):
            delta = ascend(
                attack_objective(model, windows, target, settings.attack), windows, settings.ascent, generator
            )
        both: Forecast = model(torch.cat([windows, windows + delta]))
    clean, moved = both.values.chunk(2)
    loss = error_of(moved, target, settings.error).mean()
    if both.loss is not None:
        loss = loss + both.of_batch(both.loss.chunk(2)[1])
    loss = loss + weights.cps * distance(clean, taught).mean() + weights.snp * distance(moved, clean).mean()
    if both.latent is not None and weights.sib:
        before, after = both.latent.chunk(2)
        loss = loss + weights.sib * distance(after, before).mean()
    return loss


@dataclass(frozen=True, eq=False)
class WorstCase:
    """What ascent finds for each window: lower bounds of the true suprema."""

    sib: Tensor | None
    """beta; None where the forecaster has no bottleneck. Shape (B,)."""
    snp: Tensor
    """alpha 2, shape (B,)."""


def worst_case(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    goal: AttackGoal,
    settings: AscentSettings,
    generator: torch.Generator,
) -> WorstCase:
    """Search each window's ball, and say how far the bottleneck and the forecast move there.

    Args:
        model: in evaluation mode.
        batch: windows (B, T, C), and what comes after them (B, H, C).
        goal: what the search makes large; own, each of the two by a search of its own.
        settings: of the ascent.
        generator: of its starts.

    Source: FTS, section 3, its conditions 1 and 3; conditions as in the paper, error as in the public code, own: ours.
    """
    windows, target = batch
    with frozen(model):
        with torch.no_grad():
            there = model(windows)

        def moved(found: Forecast) -> Tensor:
            return distance(found.values, there.values)

        def sieved(found: Any) -> Tensor:
            return distance(found.latent, there.latent)

        def reached(objective: Callable[[Tensor], Tensor]) -> Forecast:
            delta = ascend(objective, windows, settings, generator, keep_best=True)
            with torch.no_grad():
                found: Forecast = model(windows + delta)
            return found

        if goal != "own":
            found = reached(attack_objective(model, windows, target, goal))
            return WorstCase(None if there.latent is None else sieved(found), moved(found))
        sib = None if there.latent is None else sieved(reached(lambda perturbed: sieved(model(perturbed))))
        return WorstCase(sib, moved(reached(lambda perturbed: moved(model(perturbed)))))


def preference(faithful_base: float, faithful: float, plain_base: float, plain: float) -> float | None:
    """Return by how much a faithful model moves less with a seed than a plain one, in percent.

    Args:
        faithful_base: error with the base seed.
        faithful: error with another seed.
        plain_base: the plain model's, likewise.
        plain: likewise.

    Returns:
        None where the plain model does not move, and nothing can be less, or the faithful one's base has no error.

    Source: FTS, its 'preference' of table 2.
    """
    moved = abs(plain_base - plain)
    if moved == 0 or faithful_base == 0:
        return None
    return 100 * (1 - abs(faithful_base - faithful) / moved * plain_base / faithful_base)
