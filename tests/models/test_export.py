"""Exported checkpoints: number formats, vision-language models, and what no configuration can describe."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from stratoscope.models import (
    LoadSpec,
    ModelCard,
    check_prunable,
    describe_model,
    export_pruned,
    find_protected_layers,
    load_config,
    load_model,
    resolve_source,
    without_layers,
)
from stratoscope.models.verify_checkpoint import ReferenceSpec, answer, check_in_fresh_process
from tests.models import zoo
from tests.tiny import tiny_network

CARD = ModelCard("owner/model", "nobody", [])


def saved(family: str, model_type: str, folder: Path, dtype: torch.dtype = torch.float32) -> str:
    zoo.tiny_model(family, model_type).to(dtype).save_pretrained(folder)
    zoo.write_tokenizer(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2"])
@pytest.mark.parametrize(("stored", "computed"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_exports_keep_the_checkpoint_tensors(name: str, stored: str, computed: str, tmp_path: Path) -> None:
    tiny_network(name).to(getattr(torch, stored)).save_pretrained(tmp_path / "model", max_shard_size="60KB")
    zoo.write_tokenizer(tmp_path / "model")
    export_pruned(load_model(str(tmp_path / "model"), dtype=computed, head=True), [1], tmp_path / "pruned", CARD)
    before, after = (
        {k: v for file in (tmp_path / folder).glob("*.safetensors") for k, v in load_file(file).items()}
        for folder in ("model", "pruned")
    )
    layers = "h" if name == "gpt2" else "layers"
    renumber = {f"{layers}.{new}.": f"{layers}.{old}." for new, old in enumerate([0, 2, 3])}
    for key, tensor in after.items():
        original = next((key.replace(new, old) for new, old in renumber.items() if new in key), key)
        assert tensor.dtype == before[original].dtype
        assert torch.equal(tensor, before[original])
    assert json.loads((tmp_path / "pruned" / "config.json").read_text())["dtype"] == stored
    assert f"dtype: {stored}" in (tmp_path / "pruned" / "mergekit.yaml").read_text()


@pytest.mark.parametrize("model_type", ["llava", "qwen2_vl"])
def test_the_text_stack_of_a_vision_language_model_is_pruned(model_type: str, tmp_path: Path) -> None:
    name = saved("image-text", model_type, tmp_path / "model", torch.bfloat16)
    source = resolve_source(name)
    check_prunable(load_config(source), name)
    assert find_protected_layers(source) == ()
    assert describe_model(source, head=True).num_layers == zoo.NUM_LAYERS
    model, ids = load_model(name, head=True), torch.tensor([[5, 9, 33, 7]])
    export_pruned(model, [1, 2], tmp_path / "pruned", CARD)
    fresh = AutoModelForImageTextToText.from_pretrained(tmp_path / "pruned", dtype=torch.float32).eval()
    assert fresh.config.get_text_config().num_hidden_layers == zoo.NUM_LAYERS - 2
    with torch.inference_mode(), without_layers(model, [1, 2]) as pruned:
        torch.testing.assert_close(fresh(ids).logits, pruned.network(ids).logits)


@pytest.mark.long
def test_a_fresh_process_verifies_a_pruned_vision_language_model(tmp_path: Path) -> None:
    name = saved("image-text", "llava", tmp_path / "model", torch.bfloat16)
    loading = LoadSpec(resolve_source(name), "cpu", "float32", None, False, False)
    model = loading.load(head=True)
    export_pruned(model, [2], tmp_path / "pruned", CARD)
    with without_layers(model, [2]) as pruned:
        expected = answer(pruned.network)
    spec = ReferenceSpec.from_loading(loading, model.network.dtype, torch.get_num_threads(), with_original=True)
    assert [row.what for row in check_in_fresh_process(tmp_path / "pruned", expected, spec)] == [
        "decoding",
        "memory of the weights",
    ]


@pytest.mark.parametrize("model_type", ["zamba2", "minicpm3", "xlstm", "ernie4_5_moe", "minimax"])
def test_the_configuration_of_a_pruned_model_describes_it(model_type: str, tmp_path: Path) -> None:
    model = load_model(saved("causal", model_type, tmp_path / "model"), head=True)
    export_pruned(model, [0], tmp_path / "pruned", CARD)
    fresh = type(model.network).from_pretrained(tmp_path / "pruned").eval()
    ids = torch.tensor([[5, 9, 33, 7]])
    with torch.inference_mode(), without_layers(model, [0]) as pruned:
        expected = pruned.network(ids, use_cache=False).logits
        torch.testing.assert_close(fresh(ids, use_cache=False).logits, expected)


def test_the_positions_of_shared_layers_stay_when_one_of_them_is_dropped(tmp_path: Path) -> None:
    model = load_model(saved("causal", "zamba2", tmp_path / "model"), head=True)
    shared = model.anatomy.blocks[3].module.get_submodule("shared_transformer.feed_forward")
    assert vars(shared)["layer_dic"] == {1: 0, 3: 1}
    with without_layers(model, [0, 1]):
        assert vars(shared)["layer_dic"] == {1: 1}
    assert vars(shared)["layer_dic"] == {1: 0, 3: 1}


def test_copies_of_fields_in_modules_follow_the_configuration(tmp_path: Path) -> None:
    model = load_model(saved("image-text", "mllama", tmp_path / "model"), head=True)
    text = model.network.get_submodule(model.anatomy.path.rpartition(".")[0])
    crossing, ids = list(text.cross_attention_layers), torch.tensor([[5, 9, 33, 7]])
    with torch.inference_mode():
        before = model.network(ids, use_cache=False).logits
        with without_layers(model, [1]) as pruned:
            assert text.cross_attention_layers == text.config.cross_attention_layers == [2]
            assert crossing[0] == 3
            pruned.network(ids, use_cache=False)
        assert text.cross_attention_layers == crossing
        assert torch.equal(model.network(ids, use_cache=False).logits, before)


@pytest.mark.parametrize("name", ["smollm2", "own.gguf", "owner/model"])
def test_slices_name_a_model_that_can_be_loaded(name: str, tiny_model_folder: Path, tmp_path: Path) -> None:
    model = load_model(str(tiny_model_folder), head=True)
    export_pruned(model, [1], tmp_path, ModelCard(name, "nobody", []))
    slices = yaml.safe_load((tmp_path / "mergekit.yaml").read_text())["slices"]
    wanted = name if "/" in name else str(tiny_model_folder)
    assert {source["model"] for part in slices for source in part["sources"]} == {wanted}
