"""The probe on the meta device, where a tensor that was left on the CPU ends the pass as it would on a GPU."""

import pytest
import torch
from torch import Tensor

from stratoscope.activations import Probe, Span, Tap
from stratoscope.activations.forward import _extra
from stratoscope.activations.passes import TokenPass
from stratoscope.models import LoadedModel, find_anatomy
from tests.activations.test_probe import padded_batch
from tests.tiny import CONFIGURATIONS, tiny_network

META = torch.device("meta")


def measure(name: str, parts: list[Span] | None) -> tuple[int, ...]:
    # Grouped products of experts know bfloat16 alone on that device.
    network = tiny_network(name).to(META, torch.bfloat16)
    model = LoadedModel(network, None, find_anatomy(network, 4), META)
    ids, mask = padded_batch("left")
    # transformers looks at the values of a mask of two dimensions; it takes one of four as it is.
    visible = (mask[:, None, None, :] * mask[:, None, :, None]).float().to(META)

    def forward(device_ids: Tensor, device_mask: Tensor) -> None:
        model.backbone(input_ids=device_ids, attention_mask=visible, **_extra(model, model.backbone, device_mask))

    with Probe(model, tuple(Tap), (0.01,), [(0, 2)]) as probe:
        return probe.measure(ids, mask, parts, forward).statistics.shape


@pytest.mark.parametrize("parts", [None, [Span(0, 3, 9), Span(0, 8, 9)]], ids=["prompts", "parts"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_tensor_is_left_on_the_cpu(name: str, parts: list[Span] | None) -> None:
    assert measure(name, parts)[1:] == (4, len(Tap))


def test_a_tensor_that_is_left_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    update = TokenPass._update

    def with_fault(self: TokenPass, layer: int, before: Tensor, after: Tensor) -> Tensor:
        return update(self, layer, before, after) + torch.zeros(after.shape)

    monkeypatch.setattr(TokenPass, "_update", with_fault)
    with pytest.raises(RuntimeError, match="device"):
        measure("llama", None)
