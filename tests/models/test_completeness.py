"""A checkpoint that lacks weights, or holds others than its configuration says, is refused before a weight is read."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from stratoscope.errors import InputError
from stratoscope.models import ModelCard, describe_model, export_pruned, load_model, resolve_source

Weights = dict[str, Tensor]


def changed(folder: Path, target: Path, change: Callable[[Weights], Weights], **config: object) -> str:
    copy = Path(shutil.copytree(folder, target))
    file = copy / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(content | config))
    return str(copy)


def prefixed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def same(weights: Weights) -> Weights:
    return weights


CASES = [
    pytest.param(
        lambda w: (
            prefixed("base_model.model.")(w) | {"base_model.model.model.layers.1.lora_A.weight": torch.zeros(2, 2)}
        ),
        {},
        r"adapters that are not merged, such as model\.layers\.1\.lora_A\.weight; .*merge_and_unload",
        id="adapters",
    ),
    pytest.param(
        lambda w: {k: v * float("nan") if k.endswith("layers.1.mlp.up_proj.weight") else v for k, v in w.items()},
        {},
        r"the weight model\.layers\.1\.mlp\.up_proj\.weight holds NaN",
        id="NaN",
    ),
    pytest.param(
        lambda w: {k: v.index_fill(0, torch.tensor([3]), float("inf")) if "norm" in k else v for k, v in w.items()},
        {},
        r"the weight model\.layers\.0\.input_layernorm\.weight holds NaN or infinite",
        id="infinite",
    ),
    pytest.param(
        lambda w: {k: v for k, v in w.items() if k != "lm_head.weight"}, {}, "lacks: lm_head.weight", id="head"
    ),
    pytest.param(
        lambda w: {k: v for k, v in w.items() if "layers.2.mlp" not in k},
        {},
        r"lacks: model.layers.2.mlp.down_proj.weight, .* and|lacks: model.layers.2.mlp.down_proj.weight",
        id="half saved",
    ),
    pytest.param(same, {"num_hidden_layers": 6}, "lacks: model.layers.4", id="more layers"),
    pytest.param(same, {"num_hidden_layers": 2}, "does not have: model.layers.2", id="fewer layers"),
    pytest.param(
        lambda w: {k: torch.zeros(0) if "embed" in k else v for k, v in w.items()}, {}, "ZeRO-3", id="ZeRO-3 leftovers"
    ),
    pytest.param(
        lambda w: {k: v[:5].clone() if "embed" in k or "lm_head" in k else v for k, v in w.items()},
        {"vocab_size": 5},
        "token ids up to",
        id="tokenizer larger than the embedding",
    ),
]


@pytest.mark.parametrize(("change", "config", "message"), CASES)
def test_incomplete_checkpoints_are_refused(
    tiny_model_folder: Path,
    tmp_path: Path,
    change: Callable[[Weights], Weights],
    config: dict[str, object],
    message: str,
) -> None:
    name = changed(tiny_model_folder, tmp_path / "changed", change, **config)
    with pytest.raises(InputError, match=message):
        describe_model(resolve_source(name), head=True)


def wrapped_layers(weights: Weights) -> Weights:
    """Names as FSDP and torch.compile leave them when they wrap single layers."""
    return {
        re.sub(r"layers\.(\d)\.", r"layers.\1._fsdp_wrapped_module._orig_mod.", name): value
        for name, value in weights.items()
    }


PREFIXES = [
    pytest.param(prefixed("_orig_mod."), "_orig_mod.", id="torch.compile"),
    pytest.param(prefixed("module."), "module.", id="DataParallel"),
    pytest.param(prefixed("base_model.model."), "base_model.model.", id="peft"),
    pytest.param(wrapped_layers, "_orig_mod._fsdp_wrapped_module.", id="FSDP"),
    pytest.param(prefixed("_orig_mod.module."), "_orig_mod.module.", id="both"),
]


@pytest.mark.parametrize(("change", "prefix"), PREFIXES)
def test_prefixes_of_wrappers_are_stripped(
    tiny_model_folder: Path, tmp_path: Path, change: Callable[[Weights], Weights], prefix: str
) -> None:
    name = changed(tiny_model_folder, tmp_path / "changed", change)
    assert describe_model(resolve_source(name)).stripped_prefix == prefix
    assert describe_model(resolve_source(name), head=True).stripped_prefix == prefix
    for head in (False, True):
        plain, model = (load_model(folder, head=head) for folder in (str(tiny_model_folder), name))
        expected, weights = plain.network.state_dict(), model.network.state_dict()
        assert expected.keys() == weights.keys()
        assert all(torch.equal(value, weights[key]) for key, value in expected.items())
    export_pruned(model, [1], tmp_path / "pruned", ModelCard("x", "nobody", []))
    names = load_file(tmp_path / "pruned" / "model.safetensors").keys()
    assert names == {key for key in expected if "layers.3." not in key}


def test_a_plain_checkpoint_has_no_prefix(tiny_model_folder: Path) -> None:
    assert describe_model(resolve_source(str(tiny_model_folder))).stripped_prefix is None


def test_adapter_folders_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/model"}))
    with pytest.raises(InputError, match=r"is an adapter for owner/model, not a model; merge it .*merge_and_unload"):
        resolve_source(str(tmp_path))


def test_loading_checks_too(tiny_model_folder: Path, tmp_path: Path) -> None:
    name = changed(tiny_model_folder, tmp_path / "changed", same, num_hidden_layers=6)
    with pytest.raises(InputError, match="lacks"):
        load_model(name)


def test_base_model_without_head_loads_without_head_alone(tiny_model_folder: Path, tmp_path: Path) -> None:
    name = changed(
        tiny_model_folder,
        tmp_path / "changed",
        lambda w: {k.removeprefix("model."): v for k, v in w.items() if k != "lm_head.weight"},
        architectures=["LlamaModel"],
    )
    assert describe_model(resolve_source(name)).num_layers == 4
    with pytest.raises(InputError, match=r"lacks: lm_head\.weight"):
        describe_model(resolve_source(name), head=True)


def test_masked_model_needs_no_pooler(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "bert"))
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=200, **shape)).save_pretrained(folder)
    assert load_model(str(folder)).anatomy is not None
