"""Perturbations of a forecaster's input and parameters."""

import pytest
import torch

from stratoscope.forecasting import FORECASTERS, PERTURBATIONS, Shape, TimeSieveSettings, perturbed_parameters

INPUT_PERTURBATIONS = {name: entry.disturb for name, entry in PERTURBATIONS.items() if entry.disturb}

WINDOWS = torch.randn(8, 60, 3, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("name", sorted(INPUT_PERTURBATIONS))
def test_level_zero_changes_nothing_and_equal_seeds_give_equal_noise(name: str) -> None:
    disturb = INPUT_PERTURBATIONS[name]
    assert torch.equal(disturb(WINDOWS, 0.0, generator()), WINDOWS)
    assert torch.equal(disturb(WINDOWS, 0.3, generator()), disturb(WINDOWS, 0.3, generator()))


def test_gaussian_noise_has_its_deviation_and_residual_noise_that_of_each_window() -> None:
    many = WINDOWS.repeat(100, 1, 1)
    noise = INPUT_PERTURBATIONS["gaussian"](many, 0.2, generator()) - many
    assert noise.std().item() == pytest.approx(0.2, rel=0.02)
    scaled = INPUT_PERTURBATIONS["residual"](10 * many, 0.5, generator()) - 10 * many
    plain = INPUT_PERTURBATIONS["residual"](many, 0.5, generator()) - many
    torch.testing.assert_close(scaled, 10 * plain, atol=1e-3, rtol=1e-3)


def test_a_missing_value_is_replaced_by_the_last_known_one() -> None:
    filled = INPUT_PERTURBATIONS["missing"](WINDOWS, 0.4, generator())
    changed = filled != WINDOWS
    assert 0.3 < changed.float().mean() < 0.45
    for window, row, channel in changed.nonzero().tolist():
        earlier = [r for r in range(row) if not changed[window, r, channel]]
        expected = WINDOWS[window, earlier[-1], channel] if earlier else 0.0
        assert filled[window, row, channel] == expected


def test_perturbed_parameters_are_restored_exactly() -> None:
    torch.manual_seed(0)
    model = FORECASTERS["timesieve"].make(Shape(60, 30, 3), TimeSieveSettings()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with perturbed_parameters(model, 0.2, generator()):
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(("approximation", "detail"))}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
