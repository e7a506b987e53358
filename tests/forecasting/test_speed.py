"""Measured speed of forecasters."""

import torch

from stratoscope.forecasting import FORECASTERS, Shape, TimeSieveSettings
from stratoscope.forecasting.speed import measure_speed


def test_training_and_ascent_are_timed_and_threads_restored() -> None:
    threads = torch.get_num_threads()
    inputs, target = torch.randn(4, 16, 2), torch.randn(4, 8, 2)
    model = FORECASTERS["dlinear"].make(Shape(16, 8, 2), TimeSieveSettings())
    speed = measure_speed(model, inputs, target, "mse")
    assert speed.train > 0
    assert speed.ascent >= 0
    assert speed.num_parameters == sum(p.numel() for p in model.parameters())
    assert torch.get_num_threads() == threads
