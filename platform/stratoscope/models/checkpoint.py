"""Whether a folder's checkpoint can be loaded, seen from its headers alone."""

import json
import struct
from pathlib import Path
from typing import Any

from stratoscope.errors import InputError, first_line

INDEX = "model.safetensors.index.json"


def check_weights(folder: Path, name: str) -> None:
    """See that all weight files of a checkpoint are there and whole.

    Args:
        folder: holds the checkpoint.
        name: what the user called it.

    Raises:
        InputError: a file is missing, or shorter than its header says.
    """
    files = sorted(folder.glob("*.safetensors"))
    index = folder / INDEX
    if index.is_file():
        try:
            listed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"model.source {name!r}: {INDEX} cannot be read: {first_line(error)}") from error
        missing = sorted(listed - {file.name for file in files})
        if missing:
            raise InputError(
                f"model.source {name!r} lacks {len(missing)} of its {len(listed)} weight files, the first of them "
                f"{missing[0]}; copy the folder again"
            )
    if not files:
        raise InputError(
            f"model.source {name!r} has no .safetensors weights; convert it with save_pretrained, pickles are not read"
        )
    for file in files:
        _check_whole(file, name)


def _check_whole(file: Path, name: str) -> None:
    size = file.stat().st_size
    try:
        with file.open("rb") as content:
            (length,) = struct.unpack("<Q", content.read(8))
            header = json.loads(content.read(min(length, size)))
        end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"model.source {name!r}: {file.name} is no safetensors file; copy it again") from error
    if size != 8 + length + end:
        raise InputError(
            f"model.source {name!r}: {file.name} has {size:,} bytes and should have {8 + length + end:,}; copy it again"
        )


def quantisation_method(config: Any) -> str | None:
    """Return the name of the method that quantised a checkpoint, from its transformers configuration, or None."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    return str(found["quant_method"] if isinstance(found, dict) else found.quant_method)


def check_quantisation(config: Any, name: str, *, here: bool) -> None:
    """See that a quantised checkpoint can be loaded.

    Args:
        config: its transformers configuration.
        name: what the user called it.
        here: it will be loaded on this machine. If not, another may have the GPU that this one lacks.

    Raises:
        InputError: transformers does not know the method, or lacks a package or a GPU for it.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    method = quantisation_method(config)
    if method is None:
        return
    try:
        AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True).validate_environment()
    except Exception as error:  # each method has its own ways to complain
        if here or isinstance(error, ImportError):
            raise InputError(
                f"model.source {name!r} is quantised by {method}, which cannot be loaded here: {first_line(error)}"
            ) from error
