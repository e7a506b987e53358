"""Conversion of GGUF files to checkpoints of transformers.

transformers reads such a file three times, each time with one small array per string of the vocabulary, and builds the
table of tensor names once per module of the network. Here the file is read once, strings are cut from one buffer, and
the table is built once. All values equal those of transformers and gguf.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType

from stratoscope.models.saving import save_network

LENGTH = struct.Struct("<Q")
"""Length of a string, which precedes its bytes."""


class _GGUFMetadata(GGUFReader):  # type: ignore[misc]
    """Reads arrays of the metadata from one buffer, in files of little-endian byte order."""

    @property
    def data(self) -> Any:
        """Content of the file, as bytes: slices of a plain array cost a tenth of those of a memory map."""
        return self._content

    @data.setter
    def data(self, mapped: Any) -> None:
        self._content = np.asarray(mapped)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY or self.byte_order == "S":
            return super()._get_field_parts(orig_offs, raw_type)
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        item, start, number = GGUFValueType(kind[0]), orig_offs + 12, int(length[0])
        parts: list[Any]
        if item == GGUFValueType.STRING:
            end, parts = _cut_strings(self._content, start, number)
        elif item in self.gguf_scalar_to_np:
            values = self._get(start, self.gguf_scalar_to_np[item], number)
            end, parts = start + values.nbytes, [[value] for value in values.tolist()]
        else:
            return super()._get_field_parts(orig_offs, raw_type)
        types = [GGUFValueType.ARRAY, item] if number else [GGUFValueType.ARRAY]
        return end - orig_offs, [kind, length, *parts], list(range(2, 2 + number)), types


def _cut_strings(content: Any, start: int, number: int) -> tuple[int, list[Any]]:
    """Return the end of an array of strings and their bytes."""
    buffer = memoryview(content)
    strings = []
    for _ in range(number):
        (length,) = LENGTH.unpack_from(buffer, start)
        start += LENGTH.size
        if start + length > len(buffer):
            raise ValueError("the file ends within a string")
        strings.append(bytes(buffer[start : start + length]))
        start += length
    return start, strings


@contextmanager
def _read_once() -> Iterator[None]:
    """Let transformers read a file once and build the table of names once, inside this block."""
    package: Any = gguf
    reader, name_map = package.GGUFReader, package.get_tensor_name_map
    package.GGUFReader, package.get_tensor_name_map = cache(_GGUFMetadata), cache(name_map)
    try:
        yield
    finally:
        package.GGUFReader, package.get_tensor_name_map = reader, name_map


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF file's network in float32, its configuration and its tokenizer as a checkpoint.

    Raises:
        Exception: any, where transformers cannot read the file.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    location = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with _read_once():
        network = AutoModelForCausalLM.from_pretrained(**location, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**location)
    config = network.config
    # With a quantisation configuration, save_pretrained refuses the float32 weights.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(network.state_dict(), assign=True)
    plain.tie_weights()
    save_network(plain, folder)
    tokenizer.save_pretrained(folder)
