"""Facts about the content of large files, cached until the file changes.

Otherwise, each job would read all weights of its model twice when it starts: for their digest, and to find non-finite
values. For a checkpoint of many gigabytes, this takes longer than the start itself.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from platformdirs import user_cache_path

from stratoscope.digest import digest, file_digest

SMALL = 2**20
"""Bytes below which a file is read again in each process."""
SETTLED_S = 2.0
"""Seconds since a file's last change below which nothing is cached, because file system clocks are coarse."""
SHA256 = re.compile("[0-9a-f]{64}")

Compute = Callable[[Path], str | None]


@dataclass(frozen=True)
class _FileState:
    """Properties of a file, at least one of which changes whenever the file does."""

    path: str
    size: int
    inode: int
    modified_ns: int
    """Time of the last change of the content, which programs may set."""
    changed_ns: int
    """Time of the last change of content or state, which the file system sets."""

    @classmethod
    def of(cls, file: Path) -> "_FileState":
        state = file.stat()
        return cls(str(file.resolve()), state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)


def cache_folder() -> Path:
    """Return the user's cache folder, for converted models and facts about files; `STRATOSCOPE_CACHE` overrides it."""
    override = os.environ.get("STRATOSCOPE_CACHE")
    return Path(override) if override else user_cache_path("stratoscope")


def remembered(fact: str, file: Path, compute: Compute) -> str | None:
    """Return a fact about a file's content, which is computed once for each state of the file.

    If the cache cannot be read or written, the fact is computed once in each process.

    Args:
        fact: name of the fact. Another way to compute it needs another name.
        file: the file.
        compute: computes the fact from the file; a function of a module.

    Raises:
        OSError: the file cannot be read.
    """
    return _remembered(fact, _FileState.of(file), compute)


def remembered_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal, which is remembered.

    Raises:
        OSError: the file cannot be read.
    """
    value = remembered("sha256", file, file_digest)
    return value if value is not None and SHA256.fullmatch(value) else file_digest(file)


@lru_cache(maxsize=1024)
def _remembered(fact: str, state: _FileState, compute: Compute) -> str | None:
    file = Path(state.path)
    if state.size < SMALL:
        return compute(file)
    record = cache_folder() / "files" / f"{digest({'fact': fact, **asdict(state)})}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        value = json.loads(record.read_text(encoding="utf-8"))["value"]
        if value is None or isinstance(value, str):
            return value
    # Computed before the file is read: a later change within the same clock tick would not change the state.
    settled = time.time() - state.changed_ns / 1e9 > SETTLED_S
    value = compute(file)
    if settled:
        with suppress(OSError):
            _write(record, json.dumps({"file": state.path, "fact": fact, "value": value}))
    return value


def _write(record: Path, text: str) -> None:
    """Write a record atomically, because another process may read it at the same time."""
    record.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=record.parent, delete=False, encoding="utf-8") as temporary:
        partial = Path(temporary.name)
        try:
            temporary.write(text)
            temporary.flush()
            partial.replace(record)
        finally:
            partial.unlink(missing_ok=True)
