"""Page tables from typed rows and column descriptions. The row type provides the descriptions by default."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from stratoscope.pipelines.reporting.formatting import interval_text, number_text
from stratoscope.results import Table, TableCell, TableRow

PageRow = TypeVar("PageRow")


@dataclass(frozen=True)
class PageColumn(Generic[PageRow]):
    """A column of a page's table."""

    header: str
    cell: Callable[[PageRow], str | TableCell]
    """Returns the cell of a row."""
    meaning: str = ""
    """Meaning of the column, as a sentence."""


def field_column(
    row_type: type[TableRow], name: str, form: str | None = None, header: str | None = None
) -> PageColumn[Any]:
    """Return a column that shows a field of the rows; its meaning is the docstring of the field.

    Args:
        row_type: type of the rows.
        name: name of the field.
        form: format specification of a number, such as '.3f'; None shows the value as text.
        header: header of the column; None takes the name, with spaces for underscores.

    Raises:
        KeyError: the row type has no such field.
    """
    meaning = {column.name: column.meaning for column in row_type.columns()}[name]

    def cell(row: Any) -> str:
        value = getattr(row, name)
        return number_text(value, form) if form else "" if value is None else str(value)

    return PageColumn(header or name.replace("_", " "), cell, meaning)


def interval_column(header: str, form: str, low: str = "ci_low", high: str = "ci_high") -> PageColumn[Any]:
    """Return a column that shows an interval.

    Args:
        header: header of the column.
        form: format specification of the ends.
        low: name of the field with the lower end.
        high: name of the field with the upper end.
    """
    return PageColumn(header, lambda row: interval_text(getattr(row, low), getattr(row, high), form))


def page_table(rows: Iterable[PageRow], columns: Sequence[PageColumn[PageRow]], label: str | None = None) -> Table:
    """Return rows as a table of a page.

    Args:
        rows: the rows in order.
        columns: the columns in order.
        label: label of a field that filters the rows; None leaves the field out.
    """
    cells = [[column.cell(row) for column in columns] for row in rows]
    return Table([column.header for column in columns], cells, label, [column.meaning for column in columns])
