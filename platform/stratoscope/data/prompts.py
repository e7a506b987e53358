"""Prompts: read from a source, rendered, deduplicated and put into a seeded order."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from stratoscope.data.delimited import Quoting
from stratoscope.data.files import FileReading, read_files, source_stem
from stratoscope.data.known import KNOWN_SETS, read_known
from stratoscope.data.order import OrderedPrompts, Prompt, order_prompts
from stratoscope.data.rows import SourceRow, column_names, is_missing
from stratoscope.data.templates import PromptTemplate
from stratoscope.errors import InputError, first_line, suggest
from stratoscope.hub import hub_commit, local_path

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
TEXT_COLUMNS = ("prompt", "text", "question", "sentence", "content")
NO_GROUP = "(none)"
"""Group of prompts that have no value in the group column."""


@dataclass(frozen=True)
class PromptSource:
    """Source of prompts, and the template that renders its rows."""

    source: str
    """A known set, a local file or folder, or a hub name (owner/name)."""
    template: str | None = None
    """Jinja template over the columns of a row; None takes the template of a known set, or the first text column."""
    split: str | None = None
    """Split of a hub data set."""
    subset: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Revision of a hub data set."""
    group: str | None = None
    """Column that names the group of a prompt; None puts all prompts into one group named after the source."""
    encoding: str | None = None
    """Encoding of text files; None detects UTF-8 and UTF-16, and refuses others."""
    quoting: Quoting = "auto"
    """Whether quotes enclose fields of CSV and TSV files."""
    section: str = "prompts"
    """Section of the configuration that describes the source, for messages."""


@dataclass(frozen=True, eq=False)
class PromptSet:
    """Prompts in order, and the template that rendered them."""

    ordered: OrderedPrompts
    template: str

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def table(self) -> pa.Table:
        """Columns prompt_id, group and text."""
        return self.ordered.table

    @property
    def prompts(self) -> Iterator[Prompt]:
        """Prompts, one by one."""
        for batch in self.table.to_batches():
            for row in batch.to_pylist():
                yield Prompt(**row)


def load_prompts(source: PromptSource, limit: int | None, seed: int) -> PromptSet:
    """Read, render and order prompts (see `order_prompts`).

    Args:
        source: source of the prompts.
        limit: largest number of prompts to keep, not counting empty and duplicate ones; None keeps all.
        seed: seed of the order.

    Raises:
        InputError: the source is unknown or unreadable, the template does not match the columns, or no prompt is left.
    """
    section = source.section
    rows = read_rows(source, f"{section}.source")
    first = next(rows, None)
    if first is None:
        raise InputError(f"{section}.source {source.source!r} has no rows; name a file or set with at least one")
    template = source.template or _default_template(source, first)
    ordered = order_prompts(_render_all(chain([first], rows), template, source), limit, seed)
    if not len(ordered.table):
        raise InputError(
            f"{section}.source {source.source!r}: all {ordered.num_read} prompts are empty after rendering; check "
            f"{section}.template {template!r}"
        )
    return PromptSet(ordered, template)


def read_rows(source: PromptSource, field: str = "prompts.source") -> Iterator[SourceRow]:
    """Yield the raw rows of a source.

    Args:
        source: source of the rows.
        field: the configuration field that names it, for messages.

    Raises:
        InputError: the source is not a known set, file, folder or hub name, or cannot be read.
    """
    name, path = source.source, local_path(source.source)
    if not name.strip():
        raise InputError(f"{field} is empty; give a known set, file, folder or hub name")
    if name in KNOWN_SETS:
        return map(SourceRow, read_known(name))
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return map(SourceRow, _read_saved(source, path, field))
    if path.exists():
        return read_files(path, field, FileReading(source.encoding, source.quoting))
    if HUB_NAME.fullmatch(name) and not name.startswith(".") and not path.suffix:
        return map(SourceRow, _read_hub(source, field))
    raise InputError(
        f"{field} {name!r} is not a known set, file or hub name (owner/name){suggest(name, KNOWN_SETS, 'sets')}"
    )


def _read_saved(source: PromptSource, path: Path, field: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a folder that `save_to_disk` of the package datasets wrote."""
    from datasets import Dataset, load_from_disk

    try:
        saved = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{field} {source.source!r} cannot be read as a saved data set: {first_line(error)}"
        ) from error
    if isinstance(saved, Dataset):
        yield from saved
        return
    split = source.split or "train"
    if split not in saved:
        section = field.partition(".")[0]
        raise InputError(f"{section}.split: {source.source!r} has no split {split!r}{suggest(split, saved, 'splits')}")
    yield from saved[split]


def _read_hub(source: PromptSource, field: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    commit = hub_commit("dataset", source.source, source.revision, field)
    try:
        yield from load_dataset(source.source, source.subset, split=source.split or "train", revision=commit)
    except (OSError, ValueError) as error:
        raise InputError(f"{field} {source.source!r} cannot be read from the hub: {first_line(error)}") from error


def _default_template(source: PromptSource, row: SourceRow) -> str:
    if source.source in KNOWN_SETS:
        return KNOWN_SETS[source.source].template
    for column in TEXT_COLUMNS:
        if column in row:
            return f"{{{{ {column} }}}}"
    raise InputError(
        f"{source.section}.source {source.source!r} has none of the columns {', '.join(TEXT_COLUMNS)}; "
        f"set {source.section}.template, using its columns: {column_names(row)}"
    )


def _render_all(rows: Iterable[SourceRow], template: str, source: PromptSource) -> Iterator[Prompt]:
    compiled = PromptTemplate(template, f"{source.section}.template")
    for row in rows:
        yield Prompt(row_id(row), _group(row, source), compiled.render(row.written))


def _group(row: SourceRow, source: PromptSource) -> str:
    if source.group is None:
        return source_stem(source.source)
    if source.group not in row.written:
        raise InputError(f"{source.section}.group {source.group!r} is not a column; choose one of {column_names(row)}")
    value = row.written[source.group]
    name = "" if is_missing(value) else str(value)
    return name if name.strip() else NO_GROUP


def row_id(row: Mapping[str, Any]) -> str:
    """Return a stable id of a raw row: equal rows have equal ids in every file and on every machine."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
