"""Layers of any architecture, recognised without weights."""

from typing import Any

import pytest
from torch import nn

from stratoscope.errors import InputError
from stratoscope.models import find_anatomy, num_layers_of
from stratoscope.models.anatomy import part_kind
from tests.models import zoo
from tests.tiny import tiny_network

FAMILIES = {model_type: family for family, model_type in zoo.model_types()}


def network(model_type: str) -> Any:
    return zoo.tiny_model(FAMILIES[model_type], model_type)


@pytest.mark.parametrize(
    ("model_type", "parts"),
    [
        ("qwen3_next", {("linear_attn", "mlp"), ("self_attn", "mlp")}),
        ("bamba", {("mamba", "feed_forward"), ("self_attn", "feed_forward")}),
        ("mamba", {("mixer", None)}),
        ("nemotron_h", {("mixer", None), (None, "mixer")}),
        ("lfm2_moe", {("conv", "feed_forward"), ("self_attn", "feed_forward")}),
        ("recurrent_gemma", {("temporal_block", "mlp_block")}),
        ("xlstm", {("mlstm_layer", "ffn")}),
    ],
)
def test_layers_have_a_token_mixer_a_feed_forward_part_or_both(model_type: str, parts: set[tuple[str, str]]) -> None:
    model = network(model_type)
    anatomy = find_anatomy(model, num_layers_of(model.config))
    seen = set()
    for block in anatomy.blocks:
        names = {child: name for name, child in block.module.named_children()}
        seen.add(tuple(names.get(part) for part in (block.attention, block.mlp)))
    assert seen <= parts


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("albert", "no list of 4 layers"),
        ("funnel", "an encoder and a decoder"),
        ("hrm_text", "no list of"),
        ("xlm", "no list of 4 layers"),
    ],
)
def test_other_stacks_are_refused_in_one_line(model_type: str, reason: str) -> None:
    model = network(model_type).base_model
    with pytest.raises(InputError, match=reason) as raised:
        find_anatomy(model, num_layers_of(model.config))
    assert "\n" not in str(raised.value)


def test_a_part_is_recognised_by_its_own_name_and_not_the_models() -> None:
    layer = tiny_network("gpt_neox").gpt_neox.layers[0]
    assert part_kind(layer, "attention.dense") == "mixer"
    assert part_kind(layer, "mlp.dense_4h_to_h") == "mlp"
    assert part_kind(layer, "input_layernorm") is None
    assert part_kind(tiny_network("opt").model.decoder.layers[0], "fc2") == "mlp"


def test_encoder_and_decoder_side_by_side_are_two_stacks() -> None:
    model = nn.ModuleDict({"encoder": tiny_network("llama").model, "decoder": tiny_network("llama").model})
    with pytest.raises(InputError, match="an encoder and a decoder"):
        find_anatomy(model, 4)
