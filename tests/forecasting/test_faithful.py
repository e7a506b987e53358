"""Ascent, the three conditions, and faithful training."""

import copy
from itertools import product
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from stratoscope.forecasting import (
    FORECASTERS,
    AscentSettings,
    AttackGoal,
    Data,
    DivergedError,
    FaithfulLoss,
    FaithfulWeights,
    FitSettings,
    Forecast,
    SearchSettings,
    Shape,
    TimeSieveSettings,
    Windows,
    ascend,
    distance,
    errors,
    faithful_loss,
    fit,
    fit_faithfully,
    predict,
    preference,
    search_ascent,
    worst_case,
)
from stratoscope.forecasting.faithful import cached_weights, frozen

SHAPE = Shape(16, 8, 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def waves(num: int = 400) -> torch.Tensor:
    time = torch.arange(num, dtype=torch.float32)
    clean = torch.stack([torch.sin(time / 3), torch.cos(time / 5)], dim=1)
    return clean + 0.1 * torch.randn(num, 2, generator=generator(7))


def data() -> Data:
    values = waves()
    return Data(Windows(values, torch.arange(250), 16, 8), Windows(values, torch.arange(270, 370), 16, 8))


def model_of(name: str, seed: int = 0, **changes: object) -> nn.Module:
    torch.manual_seed(seed)
    return FORECASTERS[name].make(SHAPE, TimeSieveSettings(**changes))


@given(st.sampled_from(["linf", "l2"]), st.floats(0.01, 1), st.floats(0.001, 2), st.integers(0, 1000))
@hypothesis_settings(max_examples=25, deadline=None)
def test_ascent_stays_in_its_ball_and_never_ends_below_its_start(
    norm: str, radius: float, step: float, seed: int
) -> None:
    model = model_of("linear", seed)
    windows, target = data().train.batch(torch.arange(4))

    def objective(perturbed: torch.Tensor) -> torch.Tensor:
        return distance(model(perturbed).values, target)

    ascent = AscentSettings(radius, step, 5, norm)
    delta = ascend(objective, windows, ascent, generator(seed), keep_best=True)
    size = delta.abs().flatten(1).amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)
    assert torch.all(size <= radius * (1 + 1e-5))
    with torch.no_grad():
        assert torch.all(objective(windows + delta) >= objective(windows) - 1e-6)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_worst_case_of_a_linear_forecaster_is_its_radius_times_the_dual_norm(norm: str, dual: int) -> None:
    torch.manual_seed(0)
    model = FORECASTERS["linear"].make(Shape(16, 1, 1), TimeSieveSettings())
    windows = torch.randn(6, 16, 1, generator=generator())
    ascent = search_ascent(0.3, SearchSettings().steps, norm)
    worst = worst_case(model, (windows, torch.zeros(6, 1, 1)), "own", ascent, generator())
    expected = 0.3 * model.map.weight.norm(p=dual)
    # Ascent on a sphere converges slowly at the end.
    torch.testing.assert_close(worst.snp, expected.expand(6).detach(), rtol=1e-5 if norm == "linf" else 0.03, atol=0)
    assert torch.all(worst.snp <= expected * (1 + 1e-5))
    assert worst.sib is None


def test_ascent_finds_nearly_the_worst_corner_and_nothing_beyond_it() -> None:
    torch.manual_seed(0)
    model = FORECASTERS["linear"].make(Shape(10, 4, 1), TimeSieveSettings())
    windows = torch.randn(6, 10, 1, generator=generator())
    batch = windows, torch.zeros(6, 4, 1)
    worst = worst_case(model, batch, "own", AscentSettings(0.3, 0.03, 60, "linf"), generator())
    # A convex function over a cube is largest at a corner.
    corners = 0.3 * torch.tensor(list(product((-1.0, 1.0), repeat=10)))
    expected = (corners @ model.map.weight.T).abs().mean(dim=1).max().item()
    assert torch.all(worst.snp <= expected * (1 + 1e-4))
    # A linear forecaster has the same worst case for all windows, and each window has its own start.
    assert worst.snp.max() >= 0.95 * expected


def validation_error(model: nn.Module) -> float:
    return errors(predict(model, data().validation), data().validation)["mae"]


class Constant(nn.Module):
    def __init__(self, *, looks: bool) -> None:
        super().__init__()
        self.looks = looks

    def forward(self, series: torch.Tensor) -> Forecast:
        ones = torch.ones(len(series), 8, 2)
        return Forecast(ones + 0 * series.sum() if self.looks else ones)


@pytest.mark.parametrize("looks", [True, False])
def test_a_constant_forecaster_is_perfectly_faithful(*, looks: bool) -> None:
    batch = data().train.batch(torch.arange(4))
    for goal in get_args(AttackGoal):
        worst = worst_case(Constant(looks=looks), batch, goal, AscentSettings(), generator())
        assert torch.all(worst.snp == 0)
    assert preference(0.5, 0.5, 0.5, 0.6) == 100


def test_own_goal_finds_nearly_as_large_a_change_as_any_other_goal() -> None:
    model = model_of("timesieve")
    fit(model, data(), FitSettings(epochs=3, learning_rate=1e-3), seed=0)
    model.eval()
    batch = data().train.batch(torch.arange(8))
    ascent = AscentSettings(0.2, 0.05, 10)
    worst = {goal: worst_case(model, batch, goal, ascent, generator()) for goal in get_args(AttackGoal)}
    for goal in ("conditions", "error"):
        assert 0 < worst[goal].snp.mean() <= 1.05 * worst["own"].snp.mean()
        assert 0 < worst[goal].sib.mean() <= 1.05 * worst["own"].sib.mean()
    assert worst["error"].snp.mean() > 0.5 * worst["own"].snp.mean()


def test_preference_of_the_papers_table() -> None:
    # Exchange, H 96, seeds 2023 and 2026 against 2021.
    assert preference(0.0868, 0.0864, 0.0929, 0.0819) == pytest.approx(96.1, abs=0.05)
    assert preference(0.0868, 0.0876, 0.0929, 0.0960) == pytest.approx(72.4, abs=0.05)


def test_there_is_no_preference_where_the_plain_error_does_not_change() -> None:
    assert preference(0.5, 0.6, 0.5, 0.5) is None
    assert preference(0.0, 0.1, 0.5, 0.6) is None


def test_frozen_weights_get_no_gradient_and_are_trainable_afterwards() -> None:
    model = model_of("timesieve").eval()
    windows, _ = data().train.batch(torch.arange(4))
    before = model(windows).values
    with frozen(model):
        inputs = windows.clone().requires_grad_(True)
        values = model(inputs).values
        values.sum().backward()
        assert all(p.grad is None for p in model.parameters())
        assert inputs.grad is not None
    torch.testing.assert_close(values, before, atol=1e-5, rtol=1e-4)
    assert all(p.requires_grad for p in model.parameters())


def test_the_faithful_loss_is_the_sum_of_its_parts() -> None:
    model = model_of("timesieve").eval()
    windows, target = data().train.batch(torch.arange(4))
    teacher_forecast = target + 0.1
    ascent = AscentSettings(0.1, 0.02, 3)

    def loss(**weights: float) -> torch.Tensor:
        settings = FaithfulLoss(FaithfulWeights(**({"sib": 0.0, "cps": 0.0, "snp": 0.0} | weights)), ascent)
        return faithful_loss(model, (windows, target, teacher_forecast), settings, generator())

    base = loss()
    parts = [loss(sib=1.0) - base, loss(cps=1.0) - base, loss(snp=1.0) - base]
    assert all(part > 0 for part in parts)
    torch.testing.assert_close(parts[1], distance(model(windows).values, teacher_forecast).mean(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loss(sib=2.0, cps=3.0, snp=0.5), base + 2 * parts[0] + 3 * parts[1] + parts[2] / 2)


def test_cached_weights_change_no_gradient() -> None:
    model = model_of("timesieve").eval()
    windows, target = data().train.batch(torch.arange(4))

    def gradients() -> list[torch.Tensor]:
        passes = distance(model(windows).values, target).mean() + model(windows + 0.1).values.mean()
        return list(torch.autograd.grad(passes, list(model.predictor.parameters())))

    separate = gradients()
    with cached_weights(model):
        with frozen(model):
            assert not model(windows).values.requires_grad
        cached = gradients()
    for one, other in zip(separate, cached, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_faithful_training_minimizes_the_configured_error() -> None:
    model = model_of("linear").eval()
    windows, target = data().train.batch(torch.arange(4))
    zero_weights = FaithfulWeights(0.0, 0.0, 0.0)
    tiny_ascent = AscentSettings(1e-9, 1e-9, 1)
    for error, expected in (
        ("mae", (model(windows).values - target).abs()),
        ("mse", (model(windows).values - target) ** 2),
    ):
        settings = FaithfulLoss(zero_weights, tiny_ascent, error=error)
        loss = faithful_loss(model, (windows, target, target), settings, generator())
        torch.testing.assert_close(loss, expected.mean())


def test_distillation_is_the_error_on_clean_windows_and_the_distance_from_the_teacher() -> None:
    model = model_of("timesieve").eval()
    windows, target = data().train.batch(torch.arange(4))
    teacher_forecast = torch.randn(target.shape, generator=generator(1))
    settings = FaithfulLoss(FaithfulWeights(sib=2.0, cps=3.0, snp=0.5), ascent=None)
    loss = faithful_loss(model, (windows, target, teacher_forecast), settings, generator())
    forecast = model(windows)
    own = forecast.batch_loss(forecast.loss)
    expected = (forecast.values - target).abs().mean() + 3 * (forecast.values - teacher_forecast).abs().mean() + own
    torch.testing.assert_close(loss, expected)


def test_one_teacher_makes_forecasters_of_different_seeds_agree() -> None:
    few = FitSettings(epochs=8, learning_rate=1e-2, decay=1.0, patience=0)
    strict = FaithfulLoss(FaithfulWeights(cps=10.0), ascent=None)
    teacher = model_of("linear", 0)
    fit(teacher, data(), few, seed=0)
    before = copy.deepcopy(teacher.state_dict())

    def disagreement(common: nn.Module | None) -> float:
        students = [model_of("linear", seed) for seed in (1, 2)]
        for seed, student in enumerate(students):
            fit_faithfully(student, data(), few, strict, seed, teacher=common)
        first, second = (predict(student, data().validation) for student in students)
        return float((first - second).abs().mean())

    # Without a common teacher, each keeps to its own random initial weights.
    assert disagreement(teacher) < 0.5 * disagreement(None)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_an_ascent_does_not_update_running_means() -> None:
    model = model_of("patchtst").train()
    windows, target = data().train.batch(torch.arange(8))
    before = {
        key: value.clone() for key, value in model.named_buffers() if key.endswith(("running_mean", "running_var"))
    }
    assert before
    with frozen(model):
        ascend(lambda x: distance(model(x).values, target), windows, AscentSettings(steps=3), generator())
    after = dict(model.named_buffers())
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    model(windows)
    assert not all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("name", sorted(FORECASTERS))
def test_every_forecaster_trains(name: str) -> None:
    model = model_of(name)
    before = validation_error(model)
    fit(model, data(), FitSettings(epochs=3, learning_rate=3e-3), seed=0)
    after = validation_error(model)
    assert predict(model, data().validation).shape == (100, 8, 2)
    if name == "last_value":
        assert after == before
    else:
        assert after < before


@pytest.mark.parametrize("attack", ["error", "conditions"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_faithful_training_makes_forecasts_more_stable_than_longer_plain_training(attack: str, norm: str) -> None:
    plain = model_of("timesieve")
    fit(plain, data(), FitSettings(epochs=4, learning_rate=1e-3), seed=0)
    faithful = copy.deepcopy(plain)
    more = FitSettings(epochs=3, learning_rate=1e-3, patience=0)
    fit(plain, data(), more, seed=0)
    radius = 0.15 if norm == "linf" else 1.0
    ascent = AscentSettings(radius, radius / 10, 10, norm)
    strict = FaithfulWeights(sib=0.5, cps=0.1, snp=3.0)
    fit_faithfully(faithful, data(), more, FaithfulLoss(strict, ascent, attack), seed=0)
    batch = data().validation.batch(torch.arange(32))

    def forecast_change(model: nn.Module) -> float:
        return float(worst_case(model.eval(), batch, "own", ascent, generator()).snp.mean())

    assert forecast_change(faithful) < forecast_change(plain)


def test_equal_seeds_give_equal_models_and_different_seeds_different_ones() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = model_of("timesieve", seed)
        fit(model, data(), FitSettings(epochs=1), seed=seed)
        fit_faithfully(model, data(), FitSettings(epochs=1), FaithfulLoss(ascent=AscentSettings(steps=2)), seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_loss_that_is_not_finite_raises() -> None:
    with pytest.raises(DivergedError, match="is not finite"):
        fit(model_of("timesieve"), data(), FitSettings(epochs=3, learning_rate=1e30), seed=0)


def test_training_with_patience_keeps_the_weights_of_the_best_epoch() -> None:
    model = model_of("linear")
    epochs = []
    fit(model, data(), FitSettings(epochs=6, learning_rate=0.5, decay=1.0, patience=2), seed=0, on_epoch=epochs.append)
    best = min(epoch.validation for epoch in epochs)
    assert validation_error(model) == pytest.approx(best)
    assert epochs[-1].validation > best, "the last epoch is the best, so the test shows nothing"
