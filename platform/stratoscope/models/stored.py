"""Exported tensors in the number format of the checkpoint that the model was read from."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stratoscope.models.checkpoint import INDEX
from stratoscope.models.completeness import WRAPPER_PREFIXES


def restore_formats(folder: Path, original: Path, kept: Sequence[int], prefixes: Sequence[str]) -> str | None:
    """Replace the tensors of a saved checkpoint by those of the original that are equal except for the number format.

    A model may compute in another number format than that of its checkpoint. A tensor without an equal counterpart in
    the original, such as one that transformers has fused or split, gets the format of most of the original's weights,
    if no bit is lost.

    Args:
        folder: the saved checkpoint, changed in place.
        original: folder of the checkpoint that the model was read from.
        kept: numbers of the saved layers in the original.
        prefixes: prefixes in the names of the original's weights, which the saved names lack.

    Returns:
        Number format of the saved checkpoint; None if the original has no weights as safetensors.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    with _Original(original, prefixes) as stored:
        if stored.dtype is None:
            return None
        total = 0
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as saved:
                names, metadata = list(saved.keys()), saved.metadata()
                tensors = {name: stored.like(saved.get_tensor(name), _names(name, kept)) for name in names}
            rewritten = file.with_suffix(".rewritten")
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, rewritten, metadata=metadata)
            rewritten.replace(file)
            total += sum(tensor.nbytes for tensor in tensors.values())
        _restore_config(folder, original, str(stored.dtype).removeprefix("torch."))
    if (index := folder / INDEX).is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["metadata"]["total_size"] = total
        index.write_text(json.dumps(content, indent=2), encoding="utf-8")
    return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"])


class _Original:
    """The tensors of a checkpoint, by their names in the network."""

    def __init__(self, folder: Path, prefixes: Sequence[str]) -> None:
        from safetensors import safe_open

        self._files: list[Any] = [safe_open(file, "pt") for file in sorted(folder.glob("*.safetensors"))]
        self._places: dict[str, tuple[Any, str]] = {}
        sizes: Counter[torch.dtype] = Counter()
        for file in self._files:
            for name in file.keys():  # noqa: SIM118 - the reader is no mapping
                self._places[_stripped(name, prefixes)] = file, name
                part = file.get_slice(name)
                if dtype := DTYPES.get(part.get_dtype()):
                    sizes[dtype] += torch.Size(part.get_shape()).numel()
        self.dtype = max(sizes, key=sizes.__getitem__, default=None)
        """Number format of most of the weights; None without weights."""

    def __enter__(self) -> "_Original":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._places.clear()

    def like(self, saved: Tensor, names: Iterator[str]) -> Tensor:
        """Return the equal tensor of the original; else the saved one, in the usual format if no bit is lost."""
        if not saved.is_floating_point() or self.dtype is None:
            return saved
        for name in names:
            if name in self._places:
                file, stored_name = self._places[name]
                stored: Tensor = file.get_tensor(stored_name)
                if stored.shape == saved.shape and torch.equal(stored.to(saved.dtype), saved):
                    return stored
        narrow = saved.to(self.dtype)
        return narrow if torch.equal(narrow.to(saved.dtype), saved) else saved


DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def _stripped(name: str, prefixes: Sequence[str]) -> str:
    for prefix in prefixes:
        name = re.sub(WRAPPER_PREFIXES[prefix], "", name)
    return name


def _names(name: str, kept: Sequence[int]) -> Iterator[str]:
    """Yield a tensor's possible names in the original: each number as a layer number, then the unchanged name.

    The checkpoint and the network may use different names for the list of layers.
    """
    for match in re.finditer(r"(?<=\.)\d+(?=\.)", name):
        if int(match[0]) < len(kept):
            yield f"{name[: match.start()]}{kept[int(match[0])]}{name[match.end() :]}"
    yield name


def _restore_config(folder: Path, original: Path, dtype: str) -> None:
    """Declare the original's number format in a saved configuration, and in those inside it."""
    file = folder / "config.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    before = json.loads((original / "config.json").read_text(encoding="utf-8"))
    _copy_dtype(saved, before)
    saved["dtype"] = before.get("dtype") or before.get("torch_dtype") or dtype
    file.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_dtype(saved: dict[str, Any], before: dict[str, Any]) -> None:
    dtype = before.get("dtype", before.get("torch_dtype"))
    if "dtype" in saved and dtype:
        saved["dtype"] = dtype
    for name, value in saved.items():
        if isinstance(value, dict) and isinstance(before.get(name), dict):
            _copy_dtype(value, before[name])
