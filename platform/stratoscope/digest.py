"""Digests of content: equal content has equal digests on every machine."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


def digest(content: Mapping[str, Any]) -> str:
    """Return a digest of a mapping of JSON values, 32 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def content_digest(content: bytes) -> str:
    """Return a digest of bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_digest() -> str:
    """Return a digest of this package's source, read once per process."""
    here = Path(__file__).parent
    files = [*here.rglob("*.py"), *here.rglob("*.yaml")]
    return digest({str(file.relative_to(here)): file_digest(file) for file in sorted(files)})
