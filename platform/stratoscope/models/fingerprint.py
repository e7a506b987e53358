"""What identifies a model's weights, so that two runs can tell whether they saw the same one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stratoscope.digest import digest, file_digest
from stratoscope.models.source import ModelSource, local_folder, pin_source

KINDS = ("safetensors", "json", "model", "jinja", "txt", "py")
"""Endings of the files of a model's folder that its answers follow from."""


def weights_fingerprint(source: ModelSource) -> str:
    """Return a digest of a model's weights, configuration, tokenizer, chat template and code.

    Of a hub name it is the commit that the revision points to, of a folder or GGUF file the content of the files.

    Raises:
        InputError: the hub does not know the name or cannot be reached.
    """
    if source.kind == "hub":
        return f"hub:{source.location}@{pin_source(source).revision}"
    if source.kind == "gguf":
        # The conversion is kept under the digest of the file's content.
        return f"gguf:{Path(local_folder(source)).name}"
    folder = Path(source.location)
    files = sorted(file for kind in KINDS for file in folder.glob(f"*.{kind}"))
    with ThreadPoolExecutor() as threads:
        digests = dict(zip([f.name for f in files], threads.map(file_digest, files), strict=True))
    return f"folder:{digest(digests)}"
