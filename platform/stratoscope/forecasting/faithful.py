"""Faithfulness of a forecaster: the three conditions of FTS (arXiv 2405.19647) as losses and as measurements.

`sib`, similarity in the bottleneck space: the bottleneck's output hardly changes under a perturbation of the input.
`cps`, consistency in the prediction space: the fine-tuned model agrees with its frozen teacher. `snp`, stability under
noise: the forecast hardly changes under a perturbation of the input. All distances are mean absolute differences, as in
the public code; the paper leaves them open.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stratoscope.forecasting.ascent import AscentSettings, ascend
from stratoscope.forecasting.linear import AffineChain
from stratoscope.forecasting.options import Attack, AttackGoal, Error
from stratoscope.forecasting.timesieve import Forecast, TimeSieve

Tensor = torch.Tensor


@dataclass(frozen=True)
class FaithfulWeights:
    """Weights of the conditions relative to the forecast error; the defaults are those of the public code."""

    sib: float = 0.05
    """Weight of similarity in the bottleneck space."""
    cps: float = 1.0
    """Weight of consistency in the prediction space."""
    snp: float = 0.05
    """Weight of stability under noise."""


@dataclass(frozen=True)
class FaithfulLoss:
    """Settings of the loss of faithful fine-tuning."""

    weights: FaithfulWeights = field(default_factory=FaithfulWeights)
    """Weights of the conditions."""
    ascent: AscentSettings | None = field(default_factory=AscentSettings)
    """Settings of the search for perturbations; None trains on clean windows, with `cps` as the only condition."""
    attack: Attack = "error"
    """Objective of the ascent."""
    error: Error = "mae"
    """Forecast error that training minimises along with the conditions."""


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean absolute difference of each window, shape (B,)."""
    return (first - second).abs().flatten(1).mean(dim=1)


def error_of(values: Tensor, target: Tensor, error: Error) -> Tensor:
    """Return the error of each window, shape (B,)."""
    return distance(values, target) if error == "mae" else (values - target).square().flatten(1).mean(dim=1)


@contextmanager
def cached_weights(model: nn.Module) -> Iterator[None]:
    """Cache what depends on a model's weights alone while the block runs, in which they must not change."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, AffineChain):
                stack.enter_context(module.cached_weights())
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Freeze a model while the block runs: no gradients of weights, no updates of running means, merged affine maps."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    momenta = [(m, m.momentum) for m in model.modules() if isinstance(m, _BatchNorm)]
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, (AffineChain, TimeSieve)):
                stack.enter_context(module.frozen())
        for parameter in trainable:
            parameter.requires_grad_(False)
        for norm, _ in momenta:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in momenta:
                norm.momentum = momentum
            for parameter in trainable:
                parameter.requires_grad_(True)


def attack_objective(model: nn.Module, windows: Tensor, target: Tensor, attack: Attack) -> Callable[[Tensor], Tensor]:
    """Return the objective that a perturbation maximises.

    Args:
        model: forecaster, whose forward pass returns a `Forecast`.
        windows: unperturbed windows, shape (B, T, C).
        target: values that follow them, shape (B, H, C).
        attack: error, the absolute error of the forecast, as in the public code; conditions, sib and snp, as in the
            paper, whose third distance does not depend on the perturbation.
    """
    if attack == "error":
        return lambda perturbed: distance(model(perturbed).values, target)
    with torch.no_grad():
        clean: Forecast = model(windows)

    def conditions(perturbed: Tensor) -> Tensor:
        forecast: Forecast = model(perturbed)
        change = distance(forecast.values, clean.values)
        if forecast.latent is not None and clean.latent is not None:
            change = change + distance(forecast.latent, clean.latent)
        return change

    return conditions


def faithful_loss(
    model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], settings: FaithfulLoss, generator: torch.Generator
) -> Tensor:
    """Return the loss of faithful fine-tuning on a batch.

    The forecast error and the model's own loss are taken on perturbed windows, as in the public code; on clean windows
    where the settings have no ascent.

    Args:
        model: forecaster being fine-tuned.
        batch: windows (B, T, C), values that follow them (B, H, C), and the teacher's forecast (B, H, C).
        settings: settings of the loss.
        generator: source of the ascent's start.

    Source: FTS, section 3, and the public code; the loss without ascent is ours.
    """
    if settings.ascent is None:
        return _distillation_loss(model, batch, settings)
    windows, target, teacher_forecast = batch
    weights = settings.weights
    with cached_weights(model):
        with frozen(model):
            objective = attack_objective(model, windows, target, settings.attack)
            delta = ascend(objective, windows, settings.ascent, generator)
        both: Forecast = model(torch.cat([windows, windows + delta]))
    clean, perturbed = both.values.chunk(2)
    loss = error_of(perturbed, target, settings.error).mean()
    if both.loss is not None:
        loss = loss + both.batch_loss(both.loss.chunk(2)[1])
    loss = loss + weights.cps * distance(clean, teacher_forecast).mean()
    loss = loss + weights.snp * distance(perturbed, clean).mean()
    if both.latent is not None and weights.sib:
        before, after = both.latent.chunk(2)
        loss = loss + weights.sib * distance(after, before).mean()
    return loss


def _distillation_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor], settings: FaithfulLoss) -> Tensor:
    """Return the error on clean windows, with the model's own loss and the distance from the teacher's forecast."""
    windows, target, teacher_forecast = batch
    forecast: Forecast = model(windows)
    loss = error_of(forecast.values, target, settings.error).mean()
    if forecast.loss is not None:
        loss = loss + forecast.batch_loss(forecast.loss)
    return loss + settings.weights.cps * distance(forecast.values, teacher_forecast).mean()


@dataclass(frozen=True, eq=False)
class WorstCase:
    """Largest changes that ascent finds for each window: lower bounds of the true suprema."""

    sib: Tensor | None
    """Change of the bottleneck's output (beta), shape (B,); None without a bottleneck."""
    snp: Tensor
    """Change of the forecast (alpha 2), shape (B,)."""


def worst_case(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    goal: AttackGoal,
    settings: AscentSettings,
    generator: torch.Generator,
) -> WorstCase:
    """Search the ball around each window for the largest changes of the bottleneck's output and of the forecast.

    Args:
        model: forecaster in evaluation mode.
        batch: windows (B, T, C), and values that follow them (B, H, C).
        goal: objective of the search; own searches for each of the two changes separately.
        settings: settings of the ascent.
        generator: source of its starts.

    Source: FTS, section 3, its conditions 1 and 3; conditions as in the paper, error as in the public code, own: ours.
    """
    windows, target = batch
    with frozen(model):
        with torch.no_grad():
            clean: Forecast = model(windows)

        latent: Any = clean.latent

        def forecast_change(forecast: Forecast) -> Tensor:
            return distance(forecast.values, clean.values)

        def latent_change(forecast: Any) -> Tensor:
            return distance(forecast.latent, latent)

        def maximize(objective: Callable[[Tensor], Tensor]) -> Forecast:
            delta = ascend(objective, windows, settings, generator, keep_best=True)
            with torch.no_grad():
                forecast: Forecast = model(windows + delta)
            return forecast

        if goal != "own":
            forecast = maximize(attack_objective(model, windows, target, goal))
            return WorstCase(latent_change(forecast) if latent is not None else None, forecast_change(forecast))
        sib = latent_change(maximize(lambda perturbed: latent_change(model(perturbed)))) if latent is not None else None
        return WorstCase(sib, forecast_change(maximize(lambda perturbed: forecast_change(model(perturbed)))))


def preference(faithful_base: float, faithful: float, plain_base: float, plain: float) -> float | None:
    """Return how much less the error of a faithful model changes with the seed than that of a plain one, in percent.

    Args:
        faithful_base: error of the faithful model with the base seed.
        faithful: its error with another seed.
        plain_base: error of the plain model with the base seed.
        plain: its error with the other seed.

    Returns:
        None where the plain model's error does not change, or the faithful model has no error with the base seed.

    Source: FTS, its 'preference' of table 2.
    """
    plain_change = abs(plain_base - plain)
    if plain_change == 0 or faithful_base == 0:
        return None
    return 100 * (1 - abs(faithful_base - faithful) / plain_change * plain_base / faithful_base)
