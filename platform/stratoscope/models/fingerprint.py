"""Fingerprints that identify a model by its weights, configuration, tokenizer and code."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stratoscope.digest import digest
from stratoscope.models.file_facts import remembered_digest
from stratoscope.models.source import ModelSource, pin_source

KINDS = ("safetensors", "json", "model", "jinja", "txt", "py")
"""Suffixes of the files in a model's folder that determine its outputs."""


def weights_fingerprint(source: ModelSource) -> str:
    """Return a digest of a model's weights, configuration, tokenizer, chat template and code.

    The fingerprint of a hub name is the commit that its revision points to, that of a folder or GGUF file a digest of
    the files.

    Raises:
        InputError: the hub does not know the name or cannot be reached.
    """
    if source.kind == "hub":
        return f"hub:{source.location}@{pin_source(source).revision}"
    if source.kind == "gguf":
        return f"gguf:{remembered_digest(Path(source.location))}"
    folder = Path(source.location)
    files = sorted(file for kind in KINDS for file in folder.glob(f"*.{kind}"))
    with ThreadPoolExecutor() as threads:
        digests = dict(zip([f.name for f in files], threads.map(remembered_digest, files), strict=True))
    return f"folder:{digest(digests)}"
