import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from stratoscope.errors import InputError
from stratoscope.models import (
    LoadedModel,
    ModelCard,
    check_prunable,
    consecutive_runs,
    export_pruned,
    without_layers,
)
from tests.tiny import CONFIGURATIONS, ENCODERS, load_tiny

ARCHITECTURES = [name for name in CONFIGURATIONS if name not in ENCODERS]
EXPORTED = ("llama", "qwen2", "gemma3", "gpt2")
CARD = ModelCard("owner/model", "avss on tap update", [["sciq", "acc", ".5", ".4", "80 %", "100"]], "search ...")

FRESH = """
import sys
import torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(int(sys.argv[2]))
ids = torch.tensor([[5, 9, 33, 7, 21, 60, 11, 2, 90, 4]])
answers = {}
for folder in sys.argv[3:]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        answers[folder] = {
            "logits": model(ids).logits,
            "generated": model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=True),
        }
torch.save(answers, sys.argv[1])
"""


def answers(model: LoadedModel) -> dict[str, torch.Tensor]:
    ids = torch.tensor([[5, 9, 33, 7, 21, 60, 11, 2, 90, 4]])
    with torch.inference_mode():
        generated = model.network.generate(ids, max_new_tokens=12, do_sample=False, use_cache=True)
        return {"logits": model.network(ids).logits, "generated": generated}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_dropped_layers_are_restored_bit_for_bit_without_copies(name: str, tiny_model_folder: Path) -> None:
    model = load_tiny(name, tiny_model_folder)
    config, places = model.network.config.to_dict(), [p.data_ptr() for p in model.network.parameters()]
    before = answers(model)
    with without_layers(model, [1, 2]) as pruned:
        assert len(pruned.anatomy) == 2
        assert pruned.network.config.get_text_config().num_hidden_layers == 2
        assert {p.data_ptr() for p in pruned.network.parameters()} <= set(places)
        assert not torch.equal(answers(pruned)["logits"], before["logits"])
    after = answers(model)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert model.network.config.to_dict() == config


def test_an_error_inside_the_block_restores_the_layers(tiny_model_folder: Path) -> None:
    model = load_tiny("llama", tiny_model_folder)
    before = answers(model)
    with pytest.raises(RuntimeError, match="mine"), without_layers(model, [0]):
        raise RuntimeError("mine")
    assert torch.equal(answers(model)["logits"], before["logits"])


def test_a_pruned_model_computes_what_its_layers_compute_one_after_the_other(tiny_model_folder: Path) -> None:
    model = load_tiny("llama", tiny_model_folder)
    ids = torch.tensor([[5, 9, 33, 7]])
    llama = model.network.model
    with torch.inference_mode():
        hidden = llama.embed_tokens(ids)
        rotary = llama.rotary_emb(hidden, torch.arange(4)[None])
        for layer in (llama.layers[0], llama.layers[3]):
            hidden = layer(hidden, position_embeddings=rotary, attention_mask=None)
        expected = model.network.lm_head(llama.norm(hidden))
        with without_layers(model, [2, 1]) as pruned:
            torch.testing.assert_close(pruned.network(ids).logits, expected)


@pytest.mark.long
def test_a_fresh_process_loads_the_exported_checkpoints_to_the_same_bits(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    expected = {}
    for name in EXPORTED:
        model = load_tiny(name, tiny_model_folder)
        export_pruned(model, [2, 0], tmp_path / name, CARD)
        with without_layers(model, [0, 2]) as pruned:
            expected[str(tmp_path / name)] = answers(pruned)
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path / "answers.pt"), threads, *expected], check=True)
    found = torch.load(tmp_path / "answers.pt")
    for folder, of_model in expected.items():
        for key, value in of_model.items():
            assert torch.equal(found[folder][key], value), (folder, key)


def test_configuration_tokenizer_card_and_slices_are_exported(tmp_path: Path, tiny_model_folder: Path) -> None:
    export_pruned(load_tiny("gemma3", tiny_model_folder), [0], tmp_path / "gemma", CARD)
    config = json.loads((tmp_path / "gemma" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    assert config["layer_types"] == ["full_attention", "sliding_attention", "full_attention"]
    assert (tmp_path / "gemma" / "generation_config.json").is_file()
    assert AutoTokenizer.from_pretrained(tmp_path / "gemma").decode([7]) == "w3"
    card = (tmp_path / "gemma" / "README.md").read_text()
    assert "without 1 of its 4 layers" in card
    assert "avss on tap update" in card
    assert "| sciq | acc | .5 | .4 | 80 % | 100 |" in card
    assert "base_model: owner/model" in card
    slices = yaml.safe_load((tmp_path / "gemma" / "mergekit.yaml").read_text())
    assert slices["slices"] == [{"sources": [{"model": "owner/model", "layer_range": [1, 4]}]}]
    assert slices["merge_method"] == "passthrough"


def test_layers_that_are_named_by_number_are_renumbered(tmp_path: Path, tiny_model_folder: Path) -> None:
    export_pruned(load_tiny("qwen3_moe", tiny_model_folder), [0], tmp_path / "moe", CARD)
    config = json.loads((tmp_path / "moe" / "config.json").read_text())
    assert config["mlp_only_layers"] == [0]


def test_consecutive_runs_of_layers() -> None:
    assert consecutive_runs([0, 1, 4, 5, 6, 9]) == [(0, 2), (4, 7), (9, 10)]


@pytest.mark.parametrize(("dropped", "message"), [([4], "layers are 0 to 3"), ([0, 1, 2, 3], "leaves none")])
def test_impossible_sets_are_refused(dropped: list[int], message: str, tiny_model_folder: Path) -> None:
    with (
        pytest.raises(InputError, match=message),
        without_layers(load_tiny("llama", tiny_model_folder), dropped),
    ):
        pass


def test_a_model_that_scales_by_depth_is_refused(tiny_model_folder: Path) -> None:
    model = load_tiny("gpt2", tiny_model_folder)
    model.network.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(InputError, match="cannot be pruned"), without_layers(model, [1]):
        pass
    model.network.config.scale_attn_by_inverse_layer_idx = False


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="not a causal language model"):
        check_prunable(CONFIGURATIONS[name], "x")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_decoders_are_accepted(name: str) -> None:
    check_prunable(CONFIGURATIONS[name], "x")
