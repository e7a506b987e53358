"""The baseline of benchmarks/faithful.py computes the same losses and gradients."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stratoscope.forecasting import FaithfulLoss, TimeSieve, TimeSieveSettings, distance
from stratoscope.forecasting.faithful import faithful_loss


@pytest.fixture(scope="module")
def baseline() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "faithful.py"
    spec = importlib.util.spec_from_file_location("benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gradients(loss: torch.Tensor, parameters: list[torch.Tensor]) -> torch.Tensor:
    values = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, values, strict=True)]
    )


@pytest.mark.parametrize("training", ["plain", "faithful"])
def test_losses_and_gradients_agree(training: str, baseline: ModuleType) -> None:
    torch.manual_seed(0)
    # Evaluation mode draws nothing, and double precision leaves no sign of a gradient to rounding.
    model = TimeSieve(32, 16, TimeSieveSettings()).double().eval()
    reference = baseline.Straightforward(model).eval()
    windows, target = torch.randn(8, 32, 3, dtype=torch.float64), torch.randn(8, 16, 3, dtype=torch.float64)
    forecast = model(windows)
    if training == "plain":
        losses = distance(forecast.values, target).mean() + forecast.loss.sum(), reference.plain_loss(windows, target)
    else:
        # The teacher is another model, so that consistency contributes to the loss.
        torch.manual_seed(1)
        teacher = baseline.Straightforward(TimeSieve(32, 16, TimeSieveSettings()).double()).eval()
        teacher_forecast = teacher(windows)[0].detach()
        draws = torch.randn(windows.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        losses = (
            faithful_loss(model, (windows, target, teacher_forecast), FaithfulLoss(), torch.Generator().manual_seed(3)),
            reference.faithful_loss(windows, target, teacher, baseline.ASCENT.radius * draws),
        )
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=0)
    one, other = (
        gradients(losses[0], list(model.parameters())),
        gradients(losses[1], list(reference.model.parameters())),
    )
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10)
