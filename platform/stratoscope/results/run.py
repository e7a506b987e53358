"""A run as stored in its folder, finished or not."""

from dataclasses import dataclass
from html import escape
from typing import ClassVar, Self, overload

import pyarrow as pa

from stratoscope.results.manifest import Manifest
from stratoscope.results.parquet import read_table
from stratoscope.results.rows import attribute_docstrings
from stratoscope.results.storage import Storage

REPORT = "report.html"
TABLE_SUFFIX = ".parquet"
ROWS_SHOWN = 20
"""Largest number of rows of the main table that a notebook shows."""


@dataclass(frozen=True)
class Run:
    """A run: its files and its manifest. Everything that shows a run works from these alone."""

    storage: Storage
    manifest: Manifest

    main_table: ClassVar[str | None] = None
    """Name of the table that a notebook shows."""

    def __init_subclass__(cls) -> None:
        """Give the tables of a run class their docstrings, for `help`."""
        for name, docstring in attribute_docstrings(cls).items():
            if isinstance(vars(cls).get(name), TableProperty):
                vars(cls)[name].__doc__ = docstring

    @property
    def path(self) -> str:
        """Path or URL of the run's folder."""
        return self.storage.url()

    @property
    def report_path(self) -> str:
        """Path or URL of the report page."""
        return self.storage.url(REPORT)

    url = path

    @property
    def tables(self) -> list[str]:
        """Names of the tables that the run has."""
        return [name.removesuffix(TABLE_SUFFIX) for name in self.storage.names() if name.endswith(TABLE_SUFFIX)]

    def table(self, name: str) -> pa.Table:
        """Read one of the run's tables, such as `prompt_stats` or `trials`.

        Raises:
            FileNotFoundError: the run has no such table.
        """
        try:
            return read_table(self.storage, name)
        except FileNotFoundError as error:
            known = ", ".join(self.tables) or "none yet"
            raise FileNotFoundError(f"run {self.path} has no table {name!r}; its tables: {known}") from error

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"<{type(self).__name__} {manifest.run_id}: {manifest.job}, {manifest.status}, {self.path}>"

    def _repr_html_(self) -> str:
        """Return the run as a notebook shows it: its state, the report page, and the head of the main table."""
        manifest = self.manifest
        parts = [f"<p><b>{escape(manifest.job)}</b> {escape(manifest.run_id)}: {escape(manifest.status)}<br>"]
        if self.storage.exists(REPORT):
            parts.append(f"report: {escape(self.report_path)}")
        parts.append("</p>")
        if self.main_table in self.tables:
            parts.append(_html_table(self.main_table, self.table(self.main_table)))
        return "".join(parts)


class TableProperty(property):
    """A table of a run as a property of the same name, documented by the string below it."""

    def __set_name__(self, owner: type[Run], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, run: None, owner: type | None = None, /) -> Self: ...
    @overload
    def __get__(self, run: Run, owner: type | None = None, /) -> pa.Table: ...
    def __get__(self, run: Run | None, owner: type | None = None, /) -> Self | pa.Table:
        """Read the table."""
        return self if run is None else run.table(self.name)


def _html_table(name: str, table: pa.Table) -> str:
    """Return the first rows of a table as HTML, without columns of bytes."""
    columns = [field.name for field in table.schema if not pa.types.is_binary(field.type)]
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    rows = table.select(columns).slice(0, ROWS_SHOWN).to_pylist()
    body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row.values()) + "</tr>" for row in rows)
    caption = f"{escape(name)}: {len(rows)} of {table.num_rows} rows"
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
