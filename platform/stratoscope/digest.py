"""Digests that identify content: equal content gives equal digests, on every machine."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def digest(content: Mapping[str, Any]) -> str:
    """Return a digest of a mapping that JSON can write, 32 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
