import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stratoscope.activations import Probe, Tap
from stratoscope.errors import InputError
from stratoscope.models import describe_model, find_anatomy, layer_parameters, load_model, resolve_source
from tests.models import zoo
from tests.tiny import tiny_network


@pytest.fixture
def sharded(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny model, with its weights in several files."""
    folder = tmp_path / "sharded"
    shutil.copytree(tiny_model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tiny_network("llama").save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def quantised(folder: Path, target: Path, **method: object) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | {"quantization_config": method}
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_a_checkpoint_of_several_files_is_accepted_whole(sharded: Path) -> None:
    assert describe_model(resolve_source(str(sharded))).num_layers == 4


def test_a_missing_weight_file_is_named(sharded: Path) -> None:
    missing = sorted(sharded.glob("*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(InputError, match=rf"lacks 1 of its \d+ weight files, such as {missing.name}"):
        resolve_source(str(sharded))


@pytest.mark.parametrize("end", [0, 5, 200, -1])
def test_a_truncated_weight_file_is_named(sharded: Path, end: int) -> None:
    cut = sorted(sharded.glob("*.safetensors"))[0]
    cut.write_bytes(cut.read_bytes()[:end])
    with pytest.raises(InputError, match=rf"{cut.name}.*copy it again"):
        resolve_source(str(sharded))


def test_a_broken_index_is_refused(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text("{")
    with pytest.raises(InputError, match=r"index\.json cannot be read"):
        resolve_source(str(sharded))


def test_a_quantised_checkpoint_that_cannot_be_loaded_is_refused_in_one_line(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = quantised(tiny_model_folder, tmp_path / "gptq", quant_method="gptq", bits=4)
    with pytest.raises(InputError, match=r"is quantised by gptq, which cannot be loaded here: .*optimum") as refused:
        describe_model(resolve_source(str(folder)))
    assert "\n" not in str(refused.value)
    folder = quantised(tiny_model_folder, tmp_path / "odd", quant_method="of-the-future")
    with pytest.raises(InputError, match="of-the-future"):
        describe_model(resolve_source(str(folder)))


def test_a_missing_gpu_is_an_error_here_but_not_on_a_cluster(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.quantizers.quantizer_bitnet import BitNetHfQuantizer

    def require_gpu(*_: object, **__: object) -> None:
        raise RuntimeError("no GPU was found")

    monkeypatch.setattr(BitNetHfQuantizer, "validate_environment", require_gpu)
    source = resolve_source(str(quantised(tiny_model_folder, tmp_path / "model", quant_method="bitnet")))
    with pytest.raises(InputError, match="quantised by bitnet, which cannot be loaded here: no GPU was found"):
        describe_model(source)
    assert describe_model(source, here=False).quantisation == "bitnet"


@pytest.mark.long
def test_a_quantised_checkpoint_that_can_be_loaded_is_read(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = quantised(
        tiny_model_folder, tmp_path / "bitnet", quant_method="bitnet", linear_class="autobitlinear",
        quantization_mode="online",
    )  # fmt: skip
    facts = describe_model(resolve_source(str(folder)))
    assert (facts.quantisation, facts.shows_hidden) == ("bitnet", True)
    model, plain = load_model(str(folder)), load_model(str(tiny_model_folder))
    ids = torch.tensor([[5, 6, 7, 8]])
    results = []
    for network in (model, plain):
        with Probe(network, list(Tap)) as probe:
            results.append(probe.measure(ids, torch.ones_like(ids)).statistics)
    assert np.isfinite(results[0].variance).all()
    assert (results[0].variance != results[1].variance).all(), "the weights are rounded to three values"


def test_integer_weights_have_no_norm(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder))
    block = model.anatomy.blocks[2].module
    block.mlp.register_buffer("packed", torch.zeros(4, 4, dtype=torch.uint8))
    norms = [norm for _, norm in layer_parameters(model.anatomy)]
    assert np.isnan(norms).tolist() == [False, False, True, False]


def test_weights_in_8_bit_floats_have_no_norm(tiny_model_folder: Path) -> None:
    model = load_model(str(tiny_model_folder))
    mlp = model.anatomy.blocks[1].module.mlp
    scale = mlp.up_proj.weight.detach().abs().max() / 448
    codes = (mlp.up_proj.weight.detach() / scale).to(torch.float8_e4m3fn)
    mlp.up_proj.weight = torch.nn.Parameter(codes, requires_grad=False)
    mlp.up_proj.weight_scale_inv = torch.nn.Parameter(scale.view(1, 1))
    norms = [norm for _, norm in layer_parameters(model.anatomy)]
    assert np.isnan(norms).tolist() == [False, True, False, False]


def test_a_model_that_is_spread_gives_the_same_statistics(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both devices are the CPU here, but accelerate moves tensors between them all the same."""
    import transformers

    arguments: dict[str, object] = {}
    load = transformers.AutoModel.from_pretrained

    def spread_over_cpu(*args: object, **options: object) -> object:
        arguments.update(options)
        parts = {"embed_tokens": "cpu", "norm": "cpu", "rotary_emb": "cpu"} | {f"layers.{i}": "cpu" for i in range(4)}
        return load(*args, **options | {"device_map": parts})

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", spread_over_cpu)
    model, ids = load_model(str(tiny_model_folder), spread=True), torch.tensor([[5, 6, 7, 8]])
    assert arguments["device_map"] == "auto"
    monkeypatch.undo()
    results = []
    for network in (model, load_model(str(tiny_model_folder))):
        with Probe(network, list(Tap), (), [(0, 2)]) as probe:
            results.append(probe.measure(ids, torch.ones_like(ids)))
    assert (results[0].statistics.m2 == results[1].statistics.m2).all()
    assert (results[0].span_cosine == results[1].span_cosine).all()


def test_a_mask_in_a_layer_is_no_weight() -> None:
    network = zoo.tiny_model("causal", "gpt_neo")
    assert any(buffer.dtype == torch.bool and buffer.ndim > 1 for buffer in network.buffers())
    for block, (_, norm) in zip(network.transformer.h, layer_parameters(find_anatomy(network, 4)), strict=True):
        assert norm == pytest.approx(sum(float(p.double().square().sum()) for p in block.parameters()) ** 0.5)
