"""Files of a run on a local disk or any fsspec URL. Every write is atomic."""

import glob
import json
import os
import posixpath
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import fsspec
import pyarrow.fs as pafs

from stratoscope.errors import DamagedFileError, InputError, first_line

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


class Storage:
    """A folder on a local disk or an object store.

    Args:
        url: a local path or an fsspec URL such as s3://bucket/folder.

    Raises:
        InputError: no file system can open the URL.
    """

    def __init__(self, url: str) -> None:
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except Exception as error:  # each file system has its own errors
            raise InputError(f"output {url!r} cannot be used: {first_line(error)}") from error
        self.is_local = "file" in _protocols(self._fs)

    def child(self, *names: str) -> "Storage":
        """Return a folder inside this one."""
        return Storage(self.url(*names))

    def url(self, *names: str) -> str:
        """Return the path of a file or folder: plain for local ones, with its scheme otherwise."""
        path = posixpath.join(self._root, *names)
        return path if self.is_local else str(self._fs.unstrip_protocol(path))

    def arrow(self, *names: str) -> tuple[pafs.FileSystem, str]:
        """Return the Arrow file system, and the path within it."""
        path = posixpath.join(self._root, *names)
        if self.is_local:
            return pafs.LocalFileSystem(), path
        return pafs.PyFileSystem(pafs.FSSpecHandler(self._fs)), path

    def register_with(self, connection: "DuckDBPyConnection") -> None:
        """Register the file system with DuckDB, so that it can read URLs of this storage."""
        if not self.is_local:
            connection.register_filesystem(self._fs)

    def local_path(self, *names: str) -> Path | None:
        """Return the local path of a file, or None on an object store."""
        return Path(self._root, *names) if self.is_local else None

    def exists(self, name: str) -> bool:
        """Return whether a file or folder exists; the answer is never cached."""
        self._fs.invalidate_cache()
        return bool(self._fs.exists(posixpath.join(self._root, name)))

    def names(self, folder: str = "") -> list[str]:
        """Return the names in a folder, sorted; empty if the folder does not exist."""
        self._fs.invalidate_cache()
        path = posixpath.join(self._root, folder) if folder else self._root
        if not self._fs.isdir(path):
            return []
        return sorted(posixpath.basename(entry.rstrip("/")) for entry in self._fs.ls(path, detail=False))

    def size(self) -> int:
        """Return the size of all files in this folder and those below it in bytes; 0 if the folder does not exist."""
        self._fs.invalidate_cache()
        return sum(entry["size"] or 0 for entry in self._fs.find(self._root, detail=True).values())

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        return bytes(self._fs.cat_file(posixpath.join(self._root, name)))

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file.

        Raises:
            FileNotFoundError: the file does not exist.
            DamagedFileError: the file is not JSON.
        """
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise DamagedFileError(self.url(name), error) from error

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return the content of several files by name, fetched concurrently where the store supports it.

        Raises:
            FileNotFoundError: a file does not exist.
        """
        paths = [posixpath.join(self._root, name) for name in names]
        # fsspec's `cat` would take characters such as [ in a name for a pattern; `cat_ranges` does not.
        contents = self._fs.cat_ranges(paths, None, None)
        for content in contents:
            if isinstance(content, Exception):
                raise content
        return {name: bytes(content) for name, content in zip(names, contents, strict=True)}

    def open(self, name: str) -> BinaryIO:
        """Open a file, to read parts of it.

        Raises:
            FileNotFoundError: the file does not exist.
        """
        file: BinaryIO = self._fs.open(posixpath.join(self._root, name), "rb")
        return file

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically: by a rename on a disk, by a single put on an object store."""
        if not self.is_local:
            self._fs.pipe_file(posixpath.join(self._root, name), content)
            return
        with self.atomic_file(name) as path:
            path.write_bytes(content)

    @contextmanager
    def atomic_file(self, name: str) -> Iterator[Path]:
        """Yield a local path to write a large file to; the file takes its name once the block succeeds."""
        target = posixpath.join(self._root, name)
        if not self.is_local:
            with tempfile.TemporaryDirectory(prefix="stratoscope-") as folder:
                temporary = Path(folder) / posixpath.basename(name)
                yield temporary
                self._fs.put_file(str(temporary), target)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(target).with_name(f".{posixpath.basename(name)}.{uuid.uuid4().hex[:8]}")
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def writing_folder(self, last: str | None = None) -> Iterator[Path]:
        """Yield a local folder to fill; it replaces this folder once the block succeeds.

        On a disk, the folder appears complete. An object store may be left with some of the files.

        Args:
            last: name of a file that marks the folder as complete: the first to be removed and the last to be uploaded.
        """
        target = self._root.rstrip("/")
        if self.is_local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        beside = Path(target).parent if self.is_local else None
        with tempfile.TemporaryDirectory(prefix=".stratoscope-", dir=beside) as folder:
            temporary = Path(folder) / posixpath.basename(target)
            temporary.mkdir()
            yield temporary
            if last is not None:
                self.remove(last)
            if self._fs.exists(target):
                self._remove(target)
            if self.is_local:
                temporary.rename(target)
            else:
                self._upload(temporary, target, last)

    def _upload(self, folder: Path, target: str, last: str | None) -> None:
        """Upload the files of a folder, side by side where the store supports it, and one of them after all others."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        targets = {path: posixpath.join(target, path.relative_to(folder).as_posix()) for path in files}
        mark = None if last is None else folder / last
        others = [path for path in files if path != mark]
        # Lists are taken as they are; fsspec would take a name such as x[1] for a pattern.
        self._fs.put([str(path) for path in others], [targets[path] for path in others])
        if mark is not None:
            self._fs.put_file(str(mark), targets[mark])

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with its content, if it exists."""
        path = posixpath.join(self._root, name)
        self._fs.invalidate_cache()
        if self._fs.exists(path):
            self._remove(path)

    def _remove(self, path: str) -> None:
        # fsspec takes the path for a pattern, except on a local disk.
        self._fs.rm(path if self.is_local else glob.escape(path), recursive=True)


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
