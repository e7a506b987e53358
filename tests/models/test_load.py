import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from stratoscope.errors import InputError
from stratoscope.models import (
    Encoding,
    describe_model,
    encode,
    encode_pair,
    encode_text,
    find_anatomy,
    layer_parameters,
    load_model,
    load_tokenizer,
    resolve_source,
    weights_fingerprint,
)
from tests.tiny import CONFIGURATIONS, tiny_network, word_tokenizer


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_layers_are_found_by_structure(name: str) -> None:
    network = tiny_network(name)
    for model in (network, network.base_model):
        anatomy = find_anatomy(model, 4)
        assert len(anatomy) == 4
        assert len({id(block.module) for block in anatomy.blocks}) == 4
        for block in anatomy.blocks:
            inside = set(block.module.modules())
            projection = block.mlp_output or block.experts
            assert {block.attention, block.mlp, projection} <= inside
            assert "attention" not in type(projection).__name__.lower()
            assert (block.experts is not None) == ("sparsemoe" in type(block.mlp).__name__.lower())
        assert anatomy.shows_hidden


def test_unrecognized_layers_are_reported() -> None:
    with pytest.raises(InputError, match="no list of 3 layers"):
        find_anatomy(tiny_network("llama"), 3)
    twin = nn.ModuleDict({"a": tiny_network("llama"), "b": tiny_network("llama")})
    with pytest.raises(InputError, match="several lists could be its layers"):
        find_anatomy(twin, 4)
    with pytest.raises(InputError, match="no list of 2 layers"):
        find_anatomy(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 2)


def test_a_folder_loads_without_its_head(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder))
    assert not hasattr(model.network, "lm_head")
    whole = load_model(str(tiny_model_folder), head=True)
    assert hasattr(whole.network, "lm_head")
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(model.backbone(ids)[0], whole.backbone(ids)[0], rtol=0, atol=0)
    assert not model.network.training
    assert load_model(str(tiny_model_folder), dtype="bfloat16").network.dtype == torch.bfloat16


def test_facts_need_no_weights(tiny_model_folder: Path) -> None:
    facts = describe_model(resolve_source(str(tiny_model_folder)))
    model = load_model(str(tiny_model_folder))
    assert facts.num_parameters == sum(p.numel() for p in model.network.parameters())
    assert (facts.num_layers, facts.hidden_size, facts.max_positions) == (4, 32, 64)
    assert (facts.longest_sequence, replace(facts, max_positions=None).longest_sequence) == (64, 2048)


def test_layer_parameters_are_counted_and_measured() -> None:
    network = tiny_network("gpt2")
    rows = list(layer_parameters(find_anatomy(network, 4)))
    block = network.transformer.h[2]
    flat = torch.cat([p.detach().flatten() for p in block.parameters()])
    assert rows[2][0] == flat.numel()
    assert rows[2][1] == pytest.approx(float(flat.norm()), rel=1e-5)


def test_the_fingerprint_follows_the_weights(tiny_model_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model_folder, copy)
    same = weights_fingerprint(resolve_source(str(copy)))
    assert same == weights_fingerprint(resolve_source(str(tiny_model_folder)))
    network = AutoModelForCausalLM.from_pretrained(copy)
    with torch.no_grad():
        network.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    network.save_pretrained(copy)
    other = weights_fingerprint(resolve_source(str(copy)))
    assert other != same
    # The chat template changes outputs as well.
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert weights_fingerprint(resolve_source(str(copy))) not in (same, other)


def test_texts_become_tokens_under_a_policy(tiny_model_folder: Path) -> None:
    tokenizer = load_tokenizer(resolve_source(str(tiny_model_folder)))
    policy = Encoding(chat=False, bos="auto", max_tokens=4, too_long="truncate")
    short, long, empty = encode(tokenizer, ["w0 w1", "w0 w1 w2 w3 w4 w5", ""], policy)
    assert (short.ids, short.truncated, short.error) == ((4, 5), False, None)
    assert (len(long.ids), long.truncated) == (4, True)
    assert empty.error == "no tokens"
    refused = encode(tokenizer, ["w0 w1 w2 w3 w4"], Encoding(False, "auto", 4, "refuse"))[0]
    assert refused.error == "too long: 5 tokens, prompts.max_tokens is 4"
    assert encode(tokenizer, ["w0"], Encoding(False, "always", 4, "refuse"))[0].ids == (1, 4)
    assert encode(tokenizer, ["<bos> w0"], Encoding(False, "always", 4, "refuse"))[0].ids == (1, 4)


@pytest.mark.parametrize("template", [None, "<bos> $A", "<bos> $A <eos>", "$A <eos>", "<bos> $A <eos> <eos>"])
def test_what_a_tokenizer_appends_is_no_part_of_a_context(template: str | None) -> None:
    tokenizer = word_tokenizer(template=template)
    before = [1] if template and template.startswith("<bos>") else []
    assert encode_text(tokenizer, "w0 w1") == [*before, 4, 5]
    assert encode_text(tokenizer, "<bos> w0") == [1, 4]
    for answer in (6, 7):
        assert encode_pair(tokenizer, "w0 w1 ", f"w{answer - 4} w0") == ([*before, 4, 5], [answer, 4])
    tokenizer.chat_template = "{% for m in messages %}<bos> {{ m.content }} <eos>{% endfor %}"
    assert encode(tokenizer, ["w0"], Encoding(True, "always", 9, "refuse"))[0].ids == (1, 4, 2)


def test_tied_weights_are_counted_once(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "tied"))
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    facts = describe_model(resolve_source(str(folder)), head=True)
    assert facts.num_parameters == sum(p.numel() for p in load_model(str(folder), head=True).network.parameters())
    assert facts.num_parameters < describe_model(resolve_source(str(tiny_model_folder)), head=True).num_parameters


def test_an_attention_implementation_is_checked_before_loading(tiny_model_folder: Path) -> None:
    source = resolve_source(str(tiny_model_folder))
    assert describe_model(source, attention="eager") == describe_model(source)
    with pytest.raises(InputError, match=r"^model\.attention 'sdpaa' .*did you mean 'sdpa'\?"):
        describe_model(source, attention="sdpaa")
