"""The class that is loaded is the one that the checkpoint declares, and models that take no text alone are refused."""

from pathlib import Path

import pytest
import torch

from stratoscope.errors import InputError
from stratoscope.models import describe_model, find_anatomy, load_config, load_model, num_layers_of, resolve_source
from stratoscope.models.classes import class_with_head, empty_model
from tests.models import zoo


def saved(family: str, model_type: str, folder: Path) -> str:
    zoo.tiny_model(family, model_type).save_pretrained(folder)
    zoo.write_tokenizer(folder)
    return str(folder)


@pytest.mark.parametrize("model_type", ["bart", "mbart", "whisper"])
def test_the_decoder_is_read_and_not_the_encoder(model_type: str, tmp_path: Path) -> None:
    name = saved("causal", model_type, tmp_path / "model")
    source = resolve_source(name)
    num_layers = num_layers_of(load_config(source))
    for head in (False, True):
        facts, model = describe_model(source, head=head), load_model(name, head=head)
        assert len(model.anatomy) == facts.num_layers == num_layers
        assert "decoder" in model.anatomy.path
        assert type(model.network).__name__.endswith("ForCausalLM")
        with torch.inference_mode():
            assert model.backbone(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)[0].shape[:2] == (1, 3)


def test_weights_that_automodel_would_not_find_are_loaded(tmp_path: Path) -> None:
    name = saved("image-text", "lighton_ocr", tmp_path / "model")
    model, whole = load_model(name), load_model(name, head=True)
    expected = whole.network.base_model.state_dict()
    loaded = model.network.base_model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("family", "model_type", "message"),
    [
        ("causal", "blt", "its configuration has no number of layers"),
        ("image-text", "blip", "cannot run on text alone: .*pixel_values"),
        ("image-text", "kosmos-2", "cannot run on text alone: .*pixel_values"),
        ("image-text", "t5gemma2", "is an encoder-decoder model"),
        ("image-text", "udop", "is an encoder-decoder model"),
        ("masked", "perceiver", "has no number of layers|cannot run on text alone"),
    ],
)
def test_models_without_text_alone_are_refused_before_loading(
    family: str, model_type: str, message: str, tmp_path: Path
) -> None:
    name = saved(family, model_type, tmp_path / "model")
    for call in (lambda: describe_model(resolve_source(name)), lambda: load_model(name)):
        with pytest.raises(InputError, match=message) as refused:
            call()
        assert "\n" not in str(refused.value)


def test_bidirectional_decoders_are_refused_by_what_they_compute(tmp_path: Path) -> None:
    name = saved("causal", "bert-generation", tmp_path / "model")
    with pytest.raises(InputError, match="attends to later tokens"):
        load_model(name, head=True)


def test_a_head_that_ignores_the_positions_to_keep_obeys(tmp_path: Path) -> None:
    model = load_model(saved("causal", "whisper", tmp_path / "model"), head=True)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        whole = model.network(ids, use_cache=False).logits
        assert torch.equal(model.network(ids, logits_to_keep=2, use_cache=False).logits, whole[:, -2:])
        places = torch.tensor([0, 2])
        assert torch.equal(model.network(ids, logits_to_keep=places, use_cache=False).logits, whole[:, places])


def test_the_declared_class_is_preferred() -> None:
    config = zoo.tiny_config("llama4")
    config.architectures = ["Llama4ForConditionalGeneration"]
    _, empty = empty_model(config, "x", head=True)
    assert type(empty).__name__ == "Llama4ForConditionalGeneration"
    assert len(find_anatomy(empty, num_layers_of(config))) == zoo.NUM_LAYERS
    assert class_with_head(zoo.tiny_config("distilbert")) is None


def test_configurations_may_use_the_classes_of_another_type(tmp_path: Path) -> None:
    name = saved("causal", "internlm3", tmp_path / "model")
    assert len(load_model(name).anatomy) == zoo.NUM_LAYERS
    assert not hasattr(load_model(name).network, "lm_head")
