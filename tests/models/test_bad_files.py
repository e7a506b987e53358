"""Files of a model that no loader can read: each is refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stratoscope.errors import InputError
from stratoscope.evaluation import load_tasks
from stratoscope.models import (
    check_prunable,
    describe_model,
    find_protected_layers,
    load_config,
    load_model,
    load_tokenizer,
    resolve_source,
)
from stratoscope.models.checkpoint import INDEX

CONFIG, TOKENIZER, OPTIONS = "config.json", "tokenizer.json", "tokenizer_config.json"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (CONFIG, {"num_attention_heads": 7}, "is not a multiple of the number of attention heads"),
        (CONFIG, {"num_attention_heads": 0}, "cannot be read"),
        (CONFIG, {"num_hidden_layers": "four"}, "num_hidden_layers"),
        (CONFIG, {"max_position_embeddings": "x"}, "max_position_embeddings"),
        (CONFIG, {"layer_types": ["full_attention"]}, "layer_types"),
        (CONFIG, {"dtype": "float99"}, "float99"),
        (CONFIG, {"rope_parameters": {"rope_type": "nope"}}, "nope"),
        (CONFIG, {"quantization_config": {}}, "quant_method"),
        (CONFIG, None, "cannot be read"),
        (CONFIG, [], "cannot be read"),
        (TOKENIZER, {"model": {"type": "Newer", "vocab": {}}}, "has no tokenizer"),
        (TOKENIZER, {"pre_tokenizer": {"type": "Newer"}}, "has no tokenizer"),
        (TOKENIZER, [], "has no tokenizer"),
        (OPTIONS, [], "has no tokenizer"),
        (INDEX, [], "cannot be read"),
        (INDEX, {"weight_map": {"a": ["b"]}}, "lacks 1 of its 1 weight files"),
        ("generation_config.json", [], "cannot be loaded"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(
    file: str, change: Any, message: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_folder, model)
    old = json.loads((model / file).read_text()) if (model / file).exists() else {}
    (model / file).write_text(json.dumps({**old, **change} if isinstance(change, dict) else change))
    with pytest.raises(InputError, match=message) as refusal:
        load_all(str(model))
    assert "\n" not in str(refusal.value)


def load_all(name: str) -> None:
    """Load all that a search loads, in its order."""
    source = resolve_source(name)
    describe_model(source, head=True)
    check_prunable(load_config(source), name)
    find_protected_layers(source)
    load_tokenizer(source)
    load_model(source, head=True)


def test_the_home_of_an_unknown_user_is_no_path() -> None:
    with pytest.raises(InputError, match="is not a known name, folder"):
        resolve_source("~nobody-of-this-name/model")
    with pytest.raises(InputError, match="there is no such file"):
        load_tasks(["~nobody-of-this-name/task.yaml"])
