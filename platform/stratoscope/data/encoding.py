"""Text files: compression, character encodings, and the place of a byte that cannot be decoded."""

import codecs
import gzip
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

COMPRESSIONS = (".gz", ".zst")
"""Suffixes of compressed files; the suffix before them is the kind of the file."""
BYTE_ORDER_MARK = "\ufeff"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 4096
_MOST_ZEROS = 0.5
"""Share of zero bytes at even or odd places, above which a text without a mark is UTF-16."""


@dataclass(frozen=True)
class UndecodableByte:
    """First byte of a file that its encoding does not allow."""

    byte: int
    position: int
    """Number of bytes before it in the uncompressed file."""
    line: int
    """Number of its line, from 1."""
    encoding: str

    def __str__(self) -> str:
        return f"byte 0x{self.byte:02x} at position {self.position:,} in line {self.line:,} is not {self.encoding}"


def check_encoding(name: str | None) -> str | None:
    """Return the name of an encoding of text.

    Raises:
        ValueError: Python does not know it.
    """
    try:
        if name is not None:
            "".encode(name)
    except LookupError:
        raise ValueError(f"{name!r} is not an encoding of text that Python knows, such as cp1252") from None
    return name


def open_binary(path: Path) -> IO[bytes]:
    """Open a file, and decompress it if it begins like a gzip or Zstandard file."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == _GZIP:
        return cast("IO[bytes]", gzip.open(path))
    if start == _ZSTD:
        stream: Any = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        return io.BufferedReader(stream)
    return path.open("rb")


def open_text(path: Path, encoding: str | None, newline: str | None = None) -> io.TextIOWrapper:
    """Open a text file, compressed or not.

    Args:
        path: the file.
        encoding: its encoding; None detects UTF-8, with or without a mark, and UTF-16.
        newline: as in `open`.
    """
    return io.TextIOWrapper(open_binary(path), encoding or detect_encoding(path), newline=newline)


def detect_encoding(path: Path) -> str:
    """Return the encoding that a file's mark or zero bytes show, and UTF-8 otherwise."""
    with open_binary(path) as file:
        start = file.read(_SAMPLE)
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    for encoding, first in (("utf-16-be", 0), ("utf-16-le", 1)):
        zeros, others = start[first::2], start[1 - first :: 2]
        if zeros.count(0) > _MOST_ZEROS * len(zeros) and not others.count(0):
            return encoding
    return "utf-8"


def without_marks(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines without the byte order marks that remain where files with such marks were joined."""
    for line in lines:
        yield line.removeprefix(BYTE_ORDER_MARK)


def find_undecodable(path: Path, encoding: str | None) -> UndecodableByte | None:
    """Return the first byte of a file that cannot be decoded, or None."""
    name = encoding or detect_encoding(path)
    decoder = codecs.getincrementaldecoder(name)()
    consumed = num_newlines = 0
    with open_binary(path) as file:
        while True:
            block = file.read(1 << 16)
            consumed += len(block)
            try:
                num_newlines += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(name, errors="replace").count("\n")
                position = consumed - len(error.object) + error.start
                return UndecodableByte(error.object[error.start], position, num_newlines + before + 1, name.upper())
            except UnicodeError:  # the start of the file shows that it has another encoding
                return None
            if not block:
                return None
