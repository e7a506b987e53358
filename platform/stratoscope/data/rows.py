"""Rows of a source, and the text of their values as the file has it."""

import math
from collections.abc import Iterable, Mapping
from datetime import date, time
from typing import Any

MAX_NAMED = 12
"""Largest number of columns that a message names."""


class SourceRow(dict[str, Any]):
    """Row of a source: its columns by name. Their types are those of the whole file, and the values identify the row.

    Args:
        values: the columns by name.
        written: the columns as the file has them; None takes the values.
        delimited: whether the row comes from a CSV or TSV file, whose cells cannot hold lists.
    """

    __slots__ = ("delimited", "written")

    def __init__(
        self, values: Mapping[str, Any], written: Mapping[str, Any] | None = None, *, delimited: bool = False
    ) -> None:
        super().__init__(values)
        self.written: Mapping[str, Any] = self if written is None else written
        self.delimited = delimited


class WrittenInt(int):
    """An integer or a boolean with the text that the file has for it, such as 007."""

    text: str

    def __new__(cls, value: int, text: str) -> "WrittenInt":
        """Create the number from its value and its text."""
        number = super().__new__(cls, value)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


class WrittenFloat(float):
    """A number with the text that the file has for it, such as 1.50."""

    text: str

    def __new__(cls, value: float, text: str) -> "WrittenFloat":
        """Create the number from its value and its text."""
        number = super().__new__(cls, value)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


def parse_float(text: str) -> float:
    """Return a number that keeps its text, if that differs from Python's."""
    value = float(text)
    return value if repr(value) == text else WrittenFloat(value, text)


def as_written(value: Any, cell: str) -> Any:
    """Return a value of a CSV or TSV file whose text is the text of its cell.

    Args:
        value: the value in the type of its column.
        cell: its text in the file.
    """
    if value is None or str(value) == cell:
        return value
    if isinstance(value, int):
        return WrittenInt(value, cell.strip())
    if isinstance(value, float):
        return WrittenFloat(value, cell.strip())
    return cell if isinstance(value, date | time) else value


def is_missing(value: Any) -> bool:
    """Return whether a value is None or NaN, which mean a missing value in every format."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NaTType"


def text_of(value: Any) -> str:
    """Return a value as text, which is empty for a missing one; booleans are true and false, as in JSON.

    Raises:
        ValueError: the value is a list or an object, or holds bytes that are not UTF-8.
    """
    if is_missing(value):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping | list | tuple):
        raise ValueError(f"a text is expected, not a {type(value).__name__}")
    return str(value)


def column_names(names: Iterable[Any]) -> str:
    """Return the names of columns for a message; if there are many, only the first are named."""
    listed = [str(name)[:40] for name in names]
    more = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return ", ".join(listed[:MAX_NAMED]) + more


def repeated_name(names: Iterable[str]) -> str | None:
    """Return the first name that occurs twice, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
