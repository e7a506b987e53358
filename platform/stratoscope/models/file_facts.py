"""What was found out about a file's content, remembered in the user's cache folder until the file changes.

A job that starts would otherwise read all weights of its model twice, for their digest and for values that are not
finite, which takes longer than the start itself for a checkpoint of many gigabytes.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_cache_path

from stratoscope.digest import digest, file_digest

SMALL = 2**20
"""Bytes below which a file is read again rather than remembered."""
SETTLED_S = 2.0
"""Age of a file's last change below which nothing is remembered, because clocks of file systems may be this coarse."""


def cache_folder() -> Path:
    """Return the user's cache folder, for converted models and facts about files; `STRATOSCOPE_CACHE` overrides it."""
    override = os.environ.get("STRATOSCOPE_CACHE")
    return Path(override) if override else user_cache_path("stratoscope")


@dataclass(frozen=True)
class _FileState:
    """What changes whenever a file does."""

    path: str
    size: int
    inode: int
    modified_ns: int
    """Time of the last change of the content, which a program may set."""
    changed_ns: int
    """Time of the last change of content or state, which no program can set."""

    @classmethod
    def of(cls, file: Path) -> "_FileState":
        state = file.stat()
        return cls(str(file.resolve()), state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)


def remembered(fact: str, file: Path, compute: Callable[[Path], str | None]) -> str | None:
    """Return a fact about a file's content, from the cache if the file has not changed since it was computed.

    A cache that cannot be read or written is done without.

    Args:
        fact: name of the fact.
        file: the file.
        compute: computes the fact from the file.

    Raises:
        OSError: the file cannot be read.
    """
    state = _FileState.of(file)
    if state.size < SMALL:
        return compute(file)
    record = cache_folder() / "files" / f"{digest({'fact': fact, **asdict(state)})}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        value: str | None = json.loads(record.read_text(encoding="utf-8"))["value"]
        return value
    value = compute(file)
    if state == _FileState.of(file) and time.time() - state.changed_ns / 1e9 > SETTLED_S:
        with suppress(OSError):
            _write(record, json.dumps({"file": state.path, "fact": fact, "value": value}))
    return value


def remembered_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal, which is remembered.

    Raises:
        OSError: the file cannot be read.
    """
    return str(remembered("sha256", file, file_digest))


def _write(record: Path, text: str) -> None:
    """Write a record as a whole, since another process may read it meanwhile."""
    record.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=record.parent, delete=False, encoding="utf-8") as temporary:
        temporary.write(text)
    Path(temporary.name).replace(record)
