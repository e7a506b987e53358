"""Ascent, the three conditions, and faithful fitting."""

import copy
from itertools import product
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
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
    worst_case,
)
from stratoscope.forecasting.faithful import cached_weights, frozen
from stratoscope.pipelines.faithfulness.cells import REACH
from stratoscope.pipelines.faithfulness.config import WorstSection

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
@settings(max_examples=25, deadline=None)
def test_ascent_stays_in_its_ball_and_ends_no_lower_than_it_began(
    norm: str, radius: float, step: float, seed: int
) -> None:
    model = model_of("linear", seed)
    windows, target = data().train.batch(torch.arange(4))

    def objective(perturbed: torch.Tensor) -> torch.Tensor:
        return distance(model(perturbed).values, target)

    wanted = AscentSettings(radius, step, 5, norm)
    delta = ascend(objective, windows, wanted, generator(seed), keep_best=True)
    size = delta.abs().flatten(1).amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)
    assert torch.all(size <= radius * (1 + 1e-5))
    with torch.no_grad():
        assert torch.all(objective(windows + delta) >= objective(windows) - 1e-6)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_worst_case_of_a_linear_forecaster_is_its_radius_times_the_dual_norm(norm: str, dual: int) -> None:
    torch.manual_seed(0)
    model = FORECASTERS["linear"].make(Shape(16, 1, 1), TimeSieveSettings())
    windows = torch.randn(6, 16, 1, generator=generator())
    # As the job searches by default.
    steps = WorstSection().steps
    how = AscentSettings(0.3, REACH * 0.3 / steps, steps, norm)
    found = worst_case(model, (windows, torch.zeros(6, 1, 1)), "own", how, generator())
    expected = 0.3 * model.map.weight.norm(p=dual)
    # On a sphere the last of the way is slow.
    torch.testing.assert_close(found.snp, expected.expand(6).detach(), rtol=1e-5 if norm == "linf" else 0.03, atol=0)
    assert torch.all(found.snp <= expected * (1 + 1e-5))
    assert found.sib is None


def test_ascent_finds_nearly_the_worst_corner_and_nothing_beyond_it() -> None:
    torch.manual_seed(0)
    model = FORECASTERS["linear"].make(Shape(10, 4, 1), TimeSieveSettings())
    windows = torch.randn(6, 10, 1, generator=generator())
    batch = windows, torch.zeros(6, 4, 1)
    found = worst_case(model, batch, "own", AscentSettings(0.3, 0.03, 60, "linf"), generator())
    # Of a convex function over a cube the largest value is at a corner.
    corners = 0.3 * torch.tensor(list(product((-1.0, 1.0), repeat=10)))
    worst = (corners @ model.map.weight.T).abs().mean(dim=1).max().item()
    assert torch.all(found.snp <= worst * (1 + 1e-4))
    # One start for each window, and of a linear forecaster all windows are alike.
    assert found.snp.max() >= 0.95 * worst


def judged(model: nn.Module) -> float:
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
        found = worst_case(Constant(looks=looks), batch, goal, AscentSettings(), generator())
        assert torch.all(found.snp == 0)
    assert preference(0.5, 0.5, 0.5, 0.6) == 100


def test_what_is_sought_itself_is_found_nearly_as_large_as_by_any_other_goal() -> None:
    model = model_of("timesieve")
    fit(model, data(), FitSettings(epochs=3, learning_rate=1e-3), seed=0)
    model.eval()
    batch = data().train.batch(torch.arange(8))
    found = {g: worst_case(model, batch, g, AscentSettings(0.2, 0.05, 10), generator()) for g in get_args(AttackGoal)}
    for goal in ("conditions", "error"):
        assert 0 < found[goal].snp.mean() <= 1.05 * found["own"].snp.mean()
        assert 0 < found[goal].sib.mean() <= 1.05 * found["own"].sib.mean()
    assert found["error"].snp.mean() > 0.5 * found["own"].snp.mean()


def test_preference_of_the_papers_table() -> None:
    # Exchange, H 96, seeds 2023 and 2026 against 2021.
    assert preference(0.0868, 0.0864, 0.0929, 0.0819) == pytest.approx(96.1, abs=0.05)
    assert preference(0.0868, 0.0876, 0.0929, 0.0960) == pytest.approx(72.4, abs=0.05)


def test_where_the_plain_forecaster_does_not_move_there_is_no_preference() -> None:
    assert preference(0.5, 0.6, 0.5, 0.5) is None
    assert preference(0.0, 0.1, 0.5, 0.6) is None


def test_weights_that_stand_still_take_no_gradient_and_are_free_afterwards() -> None:
    model = model_of("timesieve").eval()
    windows, _ = data().train.batch(torch.arange(4))
    before = model(windows).values
    with frozen(model):
        given_windows = windows.clone().requires_grad_(True)
        still = model(given_windows).values
        still.sum().backward()
        assert all(p.grad is None for p in model.parameters())
        assert given_windows.grad is not None
    torch.testing.assert_close(still, before, atol=1e-5, rtol=1e-4)
    assert all(p.requires_grad for p in model.parameters())


def test_the_faithful_loss_is_the_sum_of_its_parts() -> None:
    model = model_of("timesieve").eval()
    windows, target = data().train.batch(torch.arange(4))
    taught = target + 0.1
    settings_of = AscentSettings(0.1, 0.02, 3)

    def loss(**weights: float) -> torch.Tensor:
        wanted = FaithfulLoss(FaithfulWeights(**({"sib": 0.0, "cps": 0.0, "snp": 0.0} | weights)), settings_of)
        return faithful_loss(model, (windows, target, taught), wanted, generator())

    nothing = loss()
    parts = [loss(sib=1.0) - nothing, loss(cps=1.0) - nothing, loss(snp=1.0) - nothing]
    assert all(part > 0 for part in parts)
    torch.testing.assert_close(parts[1], distance(model(windows).values, taught).mean(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loss(sib=2.0, cps=3.0, snp=0.5), nothing + 2 * parts[0] + 3 * parts[1] + parts[2] / 2)


def test_what_is_made_once_changes_no_gradient() -> None:
    model = model_of("timesieve").eval()
    windows, target = data().train.batch(torch.arange(4))

    def gradients() -> list[torch.Tensor]:
        passes = distance(model(windows).values, target).mean() + model(windows + 0.1).values.mean()
        return list(torch.autograd.grad(passes, list(model.predictor.parameters())))

    apart = gradients()
    with cached_weights(model):
        with frozen(model):
            assert not model(windows).values.requires_grad
        together = gradients()
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_the_error_of_faithful_fitting_is_the_one_that_is_asked_for() -> None:
    model = model_of("linear").eval()
    windows, target = data().train.batch(torch.arange(4))
    nothing = FaithfulWeights(0.0, 0.0, 0.0)
    still = AscentSettings(1e-9, 1e-9, 1)
    for error, expected in (
        ("mae", (model(windows).values - target).abs()),
        ("mse", (model(windows).values - target) ** 2),
    ):
        found = faithful_loss(model, (windows, target, target), FaithfulLoss(nothing, still, error=error), generator())
        torch.testing.assert_close(found, expected.mean())


def test_running_means_stand_still_while_a_perturbation_is_sought() -> None:
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
def test_every_forecaster_forecasts_and_learns(name: str) -> None:
    model = model_of(name)
    before = judged(model)
    fit(model, data(), FitSettings(epochs=3, learning_rate=3e-3), seed=0)
    after = judged(model)
    assert predict(model, data().validation).shape == (100, 8, 2)
    if name == "last_value":
        assert after == before
    else:
        assert after < before


@pytest.mark.parametrize("how", ["error", "conditions"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_faithful_fitting_moves_less_under_attack_than_as_much_plain_fitting(how: str, norm: str) -> None:
    plain = model_of("timesieve")
    fit(plain, data(), FitSettings(epochs=4, learning_rate=1e-3), seed=0)
    faithful = copy.deepcopy(plain)
    more = FitSettings(epochs=3, learning_rate=1e-3, patience=0)
    fit(plain, data(), more, seed=0)
    radius = 0.15 if norm == "linf" else 1.0
    ascent = AscentSettings(radius, radius / 10, 10, norm)
    strict = FaithfulWeights(sib=0.5, cps=0.1, snp=3.0)
    fit_faithfully(faithful, data(), more, FaithfulLoss(strict, ascent, how), seed=0)
    batch = data().validation.batch(torch.arange(32))

    def moved(model: nn.Module) -> float:
        return float(worst_case(model.eval(), batch, "own", ascent, generator()).snp.mean())

    assert moved(faithful) < moved(plain)


def test_equal_seeds_give_equal_models_and_others_do_not() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = model_of("timesieve", seed)
        fit(model, data(), FitSettings(epochs=1), seed=seed)
        fit_faithfully(model, data(), FitSettings(epochs=1), FaithfulLoss(ascent=AscentSettings(steps=2)), seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_loss_that_is_no_number_is_told() -> None:
    with pytest.raises(DivergedError, match="was no number"):
        fit(model_of("timesieve"), data(), FitSettings(epochs=3, learning_rate=1e30), seed=0)


def test_the_best_epoch_is_kept_where_patience_is_asked_for() -> None:
    model = model_of("linear")
    told = []
    fit(model, data(), FitSettings(epochs=6, learning_rate=0.5, decay=1.0, patience=2), seed=0, told=told.append)
    best = min(epoch.validation for epoch in told)
    assert judged(model) == pytest.approx(best)
    assert told[-1].validation > best, "the last epoch is the best, and shows nothing"
