"""TimeSieve: its bottleneck, its presets, and its predictor computed as one map."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from stratoscope.forecasting import Data, FitSettings, TimeSieve, TimeSieveSettings, Windows, errors, fit, predict
from stratoscope.forecasting.linear import AffineChain
from stratoscope.forecasting.timesieve import divergence, reverse_divergence

DOUBLE = torch.float64


def series(batch: int = 3, time: int = 16, channels: int = 2) -> torch.Tensor:
    return torch.randn(batch, time, channels, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def sieve(settings: TimeSieveSettings, seed: int = 0) -> TimeSieve:
    torch.manual_seed(seed)
    return TimeSieve(16, 8, settings).to(DOUBLE)


def test_divergence_is_that_of_torch() -> None:
    mean, deviation = torch.randn(50, dtype=DOUBLE), torch.rand(50, dtype=DOUBLE) + 0.01
    expected = kl_divergence(Normal(mean, deviation), Normal(torch.zeros_like(mean), torch.ones_like(mean)))
    torch.testing.assert_close(divergence(mean, deviation), expected)
    backwards = kl_divergence(Normal(torch.zeros_like(mean), torch.ones_like(mean)), Normal(mean, deviation))
    torch.testing.assert_close(reverse_divergence(mean, deviation), backwards)


def test_a_chain_of_maps_equals_the_sequence_of_its_maps_with_equal_gradients() -> None:
    torch.manual_seed(0)
    chain = AffineChain([6, 60, 120, 240, 4]).to(DOUBLE)
    inputs = torch.randn(5, 6, dtype=DOUBLE, requires_grad=True)
    plain = nn.Sequential(*chain.maps)
    expected, outputs = plain(inputs), chain(inputs)
    torch.testing.assert_close(outputs, expected)
    leaves = [inputs, *chain.parameters()]
    for one, other in zip(
        torch.autograd.grad(outputs.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    with chain.frozen():
        torch.testing.assert_close(chain(inputs), expected)
        assert not torch.autograd.grad(chain(inputs).sum(), list(chain.parameters()), allow_unused=True)[0]


@pytest.mark.parametrize("wavelet", ["db1", "db3"])
@pytest.mark.parametrize("preset", ["reference", "paper"])
@pytest.mark.parametrize("training", [True, False])
def test_a_frozen_model_gives_equal_forecasts_and_gradients(training: bool, preset: str, wavelet: str) -> None:
    model = sieve(replace(TimeSieveSettings.from_preset(preset), wavelet=wavelet)).train(training)
    inputs = series().requires_grad_(True)

    def outputs() -> list[torch.Tensor]:
        torch.manual_seed(2)
        forecast = model(inputs)
        gradients = torch.autograd.grad(forecast.values.square().sum() + forecast.latent.square().sum(), inputs)
        return [forecast.values, forecast.latent, *gradients]

    expected = outputs()
    with model.frozen():
        frozen = outputs()
    for one, other in zip(frozen, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert model(inputs).loss is not None


def test_the_reference_adds_coefficients_twice_and_the_paper_once() -> None:
    inputs = series()
    for residuals in (1, 2):
        model = sieve(TimeSieveSettings(residuals=residuals))
        for block in (model.approximation, model.detail):
            nn.init.zeros_(block.decoder.weight)
            nn.init.zeros_(block.decoder.bias)
        model.eval()
        # Where the bottleneck adds nothing, the reconstruction is the series times the number of residuals.
        torch.testing.assert_close(model(inputs).latent, residuals * inputs)


def test_forecasts_are_sampled_in_training_and_at_test_only_where_configured() -> None:
    inputs = series()
    for samples, same in ((False, True), (True, False)):
        model = sieve(TimeSieveSettings(samples_at_test=samples)).eval()
        assert torch.equal(model(inputs).values, model(inputs).values) is same
    model = sieve(TimeSieveSettings()).train()
    assert not torch.equal(model(inputs).values, model(inputs).values)


def test_the_paper_preset_trains() -> None:
    torch.manual_seed(0)
    time = torch.arange(400, dtype=torch.float32)
    values = torch.stack([torch.sin(time / 3), torch.cos(time / 5)], dim=1)
    data = Data(Windows(values, torch.arange(250), 16, 8), Windows(values, torch.arange(270, 370), 16, 8))
    model = TimeSieve(16, 8, TimeSieveSettings.from_preset("paper"))
    before = errors(predict(model, data.validation), data.validation)["mae"]
    fit(model, data, FitSettings(epochs=10, learning_rate=3e-3, decay=0.9), seed=0)
    assert errors(predict(model, data.validation), data.validation)["mae"] < before / 2


@pytest.mark.parametrize("preset", ["reference", "paper"])
def test_channels_are_processed_alike_and_independently(preset: str) -> None:
    model = sieve(TimeSieveSettings.from_preset(preset)).eval()
    inputs = series()
    forecast = model(inputs)
    assert forecast.values.shape == (3, 8, 2)
    assert forecast.latent.shape == inputs.shape
    swapped = model(inputs.flip(2))
    torch.testing.assert_close(swapped.values.flip(2), forecast.values)
    torch.testing.assert_close(swapped.loss, forecast.loss)
    torch.testing.assert_close(model(inputs[:1]).loss, forecast.loss[:1])


def test_the_loss_of_the_bottleneck_is_the_sum_of_its_parts() -> None:
    model = sieve(TimeSieveSettings(reconstruction_weight=0.3, divergence_weight=0.7)).eval()
    block = model.approximation
    inputs = torch.randn(2, 3, 8, dtype=DOUBLE)
    hidden = block.encoder(inputs)
    mean, deviation = block.mean(hidden), nn.functional.softplus(block.deviation(hidden) - 5)
    change = block.decoder(mean)
    expected = 0.3 * change.square() + 0.7 * kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0))
    expected = expected.sum(dim=(1, 2))
    torch.testing.assert_close(block(inputs).loss, expected)
