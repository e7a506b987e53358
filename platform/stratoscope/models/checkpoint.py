"""Checks that a checkpoint can be loaded. All but `check_finite` read the headers of its files alone."""

import json
import struct
from pathlib import Path
from typing import Any

from stratoscope.errors import InputError, first_line
from stratoscope.models.file_facts import remembered

INDEX = "model.safetensors.index.json"
CHECKED_FORMATS = ("F64", "F32", "F16", "BF16")
"""Number formats of tensors whose values are checked; those with fewer bits belong to quantised checkpoints."""


def check_weights(folder: Path, name: str) -> None:
    """Check that all weight files of a checkpoint exist and are complete.

    Args:
        folder: folder of the checkpoint.
        name: name of the model, as configured.

    Raises:
        InputError: a file is missing or truncated.
    """
    files = sorted(folder.glob("*.safetensors"))
    index = folder / INDEX
    if index.is_file():
        try:
            listed = set(map(str, json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"model.source {name!r}: {INDEX} cannot be read ({first_line(error)}); copy it again"
            ) from error
        missing = sorted(listed - {file.name for file in files})
        if missing:
            raise InputError(
                f"model.source {name!r} lacks {len(missing)} of its {len(listed)} weight files, such as {missing[0]}; "
                "copy the folder again"
            )
    if not files:
        raise InputError(
            f"model.source {name!r} has no .safetensors weights; convert it with save_pretrained, pickles are not read"
        )
    for file in files:
        _check_complete_file(file, name)


def _check_complete_file(file: Path, name: str) -> None:
    size = file.stat().st_size
    try:
        with file.open("rb") as content:
            (length,) = struct.unpack("<Q", content.read(8))
            header = json.loads(content.read(min(length, size)))
        end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"model.source {name!r}: {file.name} is not a safetensors file; copy it again") from error
    if size != 8 + length + end:
        raise InputError(
            f"model.source {name!r}: {file.name} has {size:,} bytes instead of {8 + length + end:,}; copy it again"
        )


def _nonfinite_tensor(file: Path) -> str | None:
    """Return the name of the first tensor of a file with a value that is NaN or infinite."""
    import torch
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        for name in sorted(weights.keys()):
            if weights.get_slice(name).get_dtype() not in CHECKED_FORMATS:
                continue
            # The sum of squares, or of magnitudes, may overflow; minimum and maximum pass on NaN.
            if (tensor := weights.get_tensor(name)).numel() and not all(map(torch.isfinite, tensor.aminmax())):
                return str(name)
    return None


def check_finite(folder: Path, name: str) -> None:
    """Check that no weight of a checkpoint is NaN or infinite. A file is read once, until it changes.

    Args:
        folder: folder of the checkpoint.
        name: name of the model, as configured.

    Raises:
        InputError: a weight is NaN or infinite.
    """
    for file in sorted(folder.glob("*.safetensors")):
        tensor = remembered(f"tensor with nonfinite values, of {' '.join(CHECKED_FORMATS)}", file, _nonfinite_tensor)
        if tensor is not None:
            raise InputError(nonfinite_message(name, tensor))


def nonfinite_message(name: str, tensor: str) -> str:
    """Return the refusal of a model with a weight that is NaN or infinite."""
    return f"model.source {name!r}: the weight {tensor} holds NaN or infinite values; use an intact checkpoint"


def weights_folder(folder: str, revision: str | None) -> Path | None:
    """Return the folder with a model's files, which for a hub name is in the hub's cache; None if there is none."""
    from transformers.utils.hub import cached_file

    if Path(folder).is_dir():
        return Path(folder)
    config = cached_file(folder, "config.json", revision=revision, local_files_only=True)
    return None if config is None else Path(config).parent


def quantisation_method(config: Any) -> str | None:
    """Return the quantisation method in a transformers configuration, or None; it may be one without a name."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
    return str(method or "a method without a name")


def check_quantisation(config: Any, name: str, *, here: bool) -> None:
    """Check that a quantised checkpoint can be loaded.

    Args:
        config: transformers configuration of the checkpoint.
        name: name of the model, as configured.
        here: whether this machine loads it; a node of a cluster may have the GPU that this machine lacks.

    Raises:
        InputError: transformers does not know the method, or lacks a package or a GPU for it.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    method = quantisation_method(config)
    if method is None:
        return
    try:
        AutoHfQuantizer.from_config(config.quantization_config, pre_quantized=True).validate_environment()
    except Exception as error:  # each method raises its own exceptions
        if here or isinstance(error, ImportError):
            raise InputError(
                f"model.source {name!r} is quantised by {method}, which cannot be loaded here: {first_line(error)}"
            ) from error
