"""Reading of a YAML file in bounded time and memory, with duplicate fields refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from stratoscope.errors import SHOWN_VALUE, InputError, first_line, shorten

MAX_BYTES = 1_000_000
"""Largest size of a file."""
MAX_VALUES = 20_000
"""Maximum number of values in a file. The values of an anchor count again at each of its aliases."""
MAX_DEPTH = 20
"""Maximum number of nesting levels."""
MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: str) -> dict[str, Any]:
    """Return the fields in a YAML file.

    Raises:
        InputError: the file cannot be read, is not YAML, is too large or too deeply nested for a configuration,
            contains a field twice, or contains something other than fields.
    """
    name = f"config {shorten(repr(path), SHOWN_VALUE)}"
    text = _read_text(path, name)
    try:
        _check_size(text, name)
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return {}
        _check_fields(node, name)
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise InputError(f"{name} is not YAML: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{name} must hold fields by name, not a {type(content).__name__}")
    return content


def _read_text(path: str, name: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - Path("") is the current folder
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{name} cannot be read: {error}") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES:,} bytes; is it a configuration?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{name} is not YAML in UTF-8: byte 0x{content[error.start]:02x} in line {line}; save it as UTF-8"
        ) from error


class _Loader(yaml.SafeLoader):
    """Reads dates as text, because no field is a date but a run_id may look like one."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass
class _Collection:
    """Size of a mapping or sequence that is being read."""

    anchor: str | None
    values: int = 1
    depth: int = 1
    """Nesting levels, including this one."""


class _SizeCounter:
    """Counts the values of a document as if each alias were replaced by its content.

    Args:
        refuse: called with the reason if the document is too large; raises.
    """

    def __init__(self, refuse: Callable[[str], None]) -> None:
        self._refuse = refuse
        self._open = [_Collection(None)]
        self._anchors: dict[str, _Collection] = {}

    def add(self, event: yaml.Event) -> None:
        """Count an event of the parser."""
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append(_Collection(event.anchor))
            self._check()
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(self._open.pop())
        elif isinstance(event, yaml.ScalarEvent):
            self._add(_Collection(event.anchor, depth=0))
        elif isinstance(event, yaml.AliasEvent):
            anchor = str(event.anchor)
            if anchor not in self._anchors:
                self._refuse(f"the alias *{anchor} has no anchor before it")
            self._add(self._anchors[anchor])

    def _add(self, part: _Collection) -> None:
        if part.anchor is not None:
            self._anchors[part.anchor] = part
        parent = self._open[-1]
        parent.values += part.values
        parent.depth = max(parent.depth, part.depth + 1)
        self._check()

    def _check(self) -> None:
        if len(self._open) + self._open[-1].depth - 2 > MAX_DEPTH:
            self._refuse(f"it is nested more than {MAX_DEPTH} levels deep")
        if self._open[-1].values > MAX_VALUES:
            self._refuse(f"it has more than {MAX_VALUES:,} values, aliases included")


def _check_size(text: str, name: str) -> None:
    def refuse(reason: str) -> None:
        raise InputError(f"{name} is no configuration: {shorten(reason, 2 * SHOWN_VALUE)}")

    counter = _SizeCounter(refuse)
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        counter.add(event)


def _check_fields(node: yaml.Node, name: str, prefix: str = "") -> None:
    """Check that no mapping contains a field twice, and that every value can be read.

    Raises:
        InputError: a field is duplicated or unreadable; the message contains its dotted name and line.
    """
    if isinstance(node, yaml.MappingNode):
        fields: set[tuple[str, str]] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in fields and key.tag != MERGE:
                raise InputError(f"{_place(name, key, prefix + key.value)} is given twice; remove one")
            fields.add((key.tag, key.value))
            _check_fields(value, name, f"{prefix}{key.value}.")
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _check_fields(item, name, f"{prefix}{index}.")
    else:
        try:
            _Loader("").construct_object(node)
        except ValueError as error:
            raise InputError(
                f"{_place(name, node, prefix[:-1])} has a value that cannot be read: {first_line(error)}"
            ) from error


def _place(name: str, node: yaml.Node, field: str) -> str:
    return f"{name}, line {node.start_mark.line + 1}: field {shorten(field, SHOWN_VALUE)!r}"
