"""Page tables from typed rows: each column is a header and a function of the row."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from stratoscope.pipelines.reporting.formatting import interval_text, number_text
from stratoscope.results import Table, TableCell, TableRow

Row = TypeVar("Row")


@dataclass(frozen=True)
class PageColumn(Generic[Row]):
    """A column of a page's table."""

    header: str
    cell: Callable[[Row], str | TableCell]
    """Returns the cell of a row."""


def field_column(name: str, header: str | None = None, form: str | None = None) -> PageColumn[Any]:
    """Return a column that shows a field of the row.

    Args:
        name: name of the field.
        header: header of the column; None takes the name, with spaces for underscores.
        form: format specification of a number, such as '.3f'; None shows the value as text.
    """

    def cell(row: Any) -> str:
        value = getattr(row, name)
        return ("" if value is None else str(value)) if form is None else number_text(value, form)

    return PageColumn(header or name.replace("_", " "), cell)


def interval_column(header: str, form: str, low: str = "ci_low", high: str = "ci_high") -> PageColumn[Any]:
    """Return a column that shows an interval.

    Args:
        header: header of the column.
        form: format specification of its ends.
        low: name of the field that holds the lower end.
        high: name of the field that holds the upper end.
    """
    return PageColumn(header, lambda row: interval_text(getattr(row, low), getattr(row, high), form))


def page_table(rows: Iterable[Row], columns: Sequence[PageColumn[Row]], label: str | None = None) -> Table:
    """Return rows as a table of a page.

    Args:
        rows: the rows in order.
        columns: the columns in order.
        label: label of a field that filters the rows; None has no field.
    """
    cells = [[column.cell(row) for column in columns] for row in rows]
    return Table([column.header for column in columns], cells, label)


def column_meanings(row_type: type[TableRow], *names: str) -> str:
    """Return a paragraph that explains columns by the docstrings of their fields.

    Args:
        row_type: the row type of the table.
        names: names of the columns; none explains all.
    """
    columns = [column for column in row_type.columns() if not names or column.name in names]
    return " ".join(f"{column.name.replace('_', ' ')}: {_sentence(column.meaning)}" for column in columns)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
