"""Lists that a program printed into one text, as Python, NumPy and JSON print them."""

import ast
import json
import re
from typing import Any

from stratoscope.data.rows import parse_float

_STRING = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ITEM = re.compile(rf"\s*({_STRING}|None|nan|NaN|null|True|False|[-+]?\d[\d.eE+-]*)(?:\s*,|(?=\s)|$)", re.DOTALL)
_QUOTED = re.compile(r"(?:array|[\[(\s])*['\"]")
_MISSING = ("None", "nan", "NaN", "null")


def parse_printed_list(text: str, *, numbers: bool) -> list[Any] | None:
    """Return the items of a printed list, or None if the text is not one.

    Args:
        text: the text.
        numbers: whether a list of numbers counts too; otherwise only a list with quoted texts does.

    Raises:
        ValueError: the text begins as a printed list or dictionary of texts does, but is not one.
    """
    stripped = text.strip()
    if re.match(r"\{\s*['\"]", stripped) and stripped.endswith("}"):
        raise ValueError("a cell holds a printed dictionary; save the data as JSON lines or Parquet")
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return None
    inner = stripped[1:-1].strip()
    quoted = _QUOTED.match(inner) is not None
    if inner and not quoted and not numbers:
        return None
    items = _json_items(stripped) or _printed_items(inner)
    if items is None and quoted:
        raise ValueError(f"a cell holds a list that cannot be read, {stripped[:60]!r}; save it as JSON")
    return items


def _json_items(text: str) -> list[Any] | None:
    try:
        items = json.loads(text, parse_float=parse_float)
    except ValueError:
        return None
    return items if all(item is None or isinstance(item, str | int | float) for item in items) else None


def _printed_items(inner: str) -> list[Any] | None:
    """Return items that are separated by commas or, as NumPy prints them, by white space."""
    items: list[Any] = []
    position = 0
    while position < len(inner):
        match = _ITEM.match(inner, position)
        if match is None:
            return None
        item = match[1]
        items.append(None if item in _MISSING else ast.literal_eval(item) if item[0] in "'\"" else item)
        position = match.end()
    return items
