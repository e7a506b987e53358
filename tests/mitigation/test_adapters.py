"""Adapters of linear modules and of a mixture's experts."""

from pathlib import Path

import pytest
import torch

from stratoscope.errors import InputError
from stratoscope.mitigation.parameters import TrainableSpec, unfreeze
from tests.tiny import load_tiny


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_adapters_reach_the_experts(name: str, tiny_model_folder: Path) -> None:
    model = load_tiny(name, tiny_model_folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    network = unfreeze(model, TrainableSpec((2,), "lora", rank=2), seed=0)
    trained = {key: parameter for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert all("layers.2." in key for key in trained)
    assert sum("experts" in key for key in trained) == 4
    network(ids).logits.square().mean().backward()
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.01)
    with torch.inference_mode():
        expected = network(ids).logits
    plain = network.merge_and_unload()
    with torch.inference_mode():
        torch.testing.assert_close(plain(ids).logits, expected, rtol=1e-4, atol=1e-4)
    changed = {key for key, value in plain.state_dict().items() if not torch.equal(value, before[key])}
    assert {"model.layers.2.mlp.experts.gate_up_proj", "model.layers.2.mlp.experts.down_proj"} < changed
    assert all("layers.2." in key for key in changed)


def test_adapters_of_experts_have_no_dropout(tiny_model_folder: Path) -> None:
    with pytest.raises(InputError, match=r"parameters\.dropout 0\.1: .*use 0"):
        unfreeze(load_tiny("mixtral", tiny_model_folder), TrainableSpec((1,), "lora", dropout=0.1), seed=0)
