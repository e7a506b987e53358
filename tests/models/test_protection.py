"""Layers that others depend on are found before a search, without a weight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from stratoscope.errors import InputError
from stratoscope.models import find_protected_layers, resolve_source
from stratoscope.models.classes import build_empty
from stratoscope.models.protection import protect
from stratoscope.models.rehearsal import rehearse
from tests.models import zoo


def saved(model_type: str, folder: Path) -> str:
    zoo.tiny_model("causal", model_type).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("model_type", "protected"),
    [
        ("llama", ()),
        ("minimax", (0,)),  # with a cache, layers of linear attention need a layer of full attention before them
        ("modernbert-decoder", (0,)),
        ("rwkv", (0,)),
        ("gpt_neox_japanese", (3,)),
        ("gemma4_text/plain", (3,)),
        ("zamba2", (1, 3)),
    ],
)
def test_layers_that_others_depend_on_are_protected(
    model_type: str, protected: tuple[int, ...], tmp_path: Path
) -> None:
    assert find_protected_layers(resolve_source(saved(model_type, tmp_path))) == protected


@pytest.mark.parametrize(
    ("model_type", "constant"),
    [("diffllama", "lambda_init"), ("beam", "attn_residual_add_idx"), ("jamba", "feed_forward")],
)
def test_a_model_is_refused_if_most_layers_would_be_protected(model_type: str, constant: str, tmp_path: Path) -> None:
    source = resolve_source(saved(model_type, tmp_path))
    with pytest.raises(InputError, match=rf"cannot be pruned: .*{constant}.*; choose another model") as caught:
        find_protected_layers(source)
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize("model_type", ["zaya", "inkling2_text"])
def test_layers_that_pass_on_more_than_hidden_states_are_refused(model_type: str, tmp_path: Path) -> None:
    source = resolve_source(saved(model_type, tmp_path))
    with pytest.raises(InputError, match="pass on more than their hidden states; choose another model"):
        find_protected_layers(source)


@pytest.mark.parametrize("model_type", ["kimi_linear", "bailing_hybrid"])
def test_a_layer_with_full_attention_is_kept(model_type: str, tmp_path: Path) -> None:
    types = ["linear_attention", "full_attention"] * 2
    config = type(zoo.tiny_config(model_type)).from_dict(zoo.tiny_config(model_type).to_dict() | {"layer_types": types})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    assert find_protected_layers(resolve_source(str(tmp_path))) == (1,)


def test_code_that_looks_at_the_number_of_a_layer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    whole = rehearse(zoo.tiny_model("causal", "llama"))
    assert whole is not None
    assert whole.has_cache
    assert whole.problem([1, 2]) == ""
    forward = LlamaDecoderLayer.forward

    def scaled(layer: Any, *args: Any, **options: Any) -> Any:
        return forward(layer, *args, **options) * (1 + layer.self_attn.layer_idx)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", scaled)
    assert "compute something else" in whole.problem([0])
    assert whole.problem([3]) == ""


def test_a_large_model_is_rehearsed_in_a_small_copy() -> None:
    config = LlamaConfig(num_hidden_layers=4, num_key_value_heads=8)
    rehearsal = rehearse(build_empty(LlamaForCausalLM, config))
    assert rehearsal is not None
    text = rehearsal.model.network.config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (4096, 32, 11008)
    assert (text.hidden_size, text.num_attention_heads, text.intermediate_size) == (256, 32, 688)
    assert rehearsal.problem([1]) == ""


def test_of_layers_that_are_a_problem_together_the_first_is_kept() -> None:
    def problem(dropped: Sequence[int]) -> str:
        return "none of a kind" if {2, 5, 7} <= set(dropped) else "special" if 9 in dropped else ""

    sets = [range(0, 10, 2), [9], [2, 5, 7], range(1, 10)]
    assert protect(sets, 10, problem, "model") == (2, 9)
    with pytest.raises(InputError, match=r"model: .*\(always\)"):
        protect(sets, 10, lambda _dropped: "always", "model")


def test_an_empty_model_has_its_buffers() -> None:
    network = build_empty(LlamaForCausalLM, zoo.tiny_config("llama"))
    assert all(parameter.is_meta for parameter in network.parameters())
    assert torch.isfinite(network.model.rotary_emb.inv_freq).all()
