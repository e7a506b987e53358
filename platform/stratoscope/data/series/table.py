"""Columns of a source as they were read, before their meaning is known."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SourceTable:
    """Columns of a source."""

    columns: dict[str, Any]
    """Arrow arrays by name: text without surrounding spaces, integers, decimals, float64, timestamps in
    microseconds, or other types."""
    rows: NDArray[np.int64]
    """Number of each row in the source, shape (N,)."""
    unit: Literal["line", "row"]
    """Unit of the numbers of rows: lines of a text file from 1, or rows of a table from 0."""

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int) -> str:
        """Return where a row is in the source, such as 'line 12'."""
        return f"{self.unit} {self.rows[row]:,}"

    def without(self, names: set[str]) -> "SourceTable":
        """Return the table without some columns."""
        kept = {name: column for name, column in self.columns.items() if name not in names}
        return SourceTable(kept, self.rows, self.unit)

    def filtered(self, name: str, value: str) -> "SourceTable":
        """Return the rows in which a column of text has a given value."""
        mask = np.array([cell == value for cell in self.columns[name].to_pylist()])
        return SourceTable({key: c.filter(mask) for key, c in self.columns.items()}, self.rows[mask], self.unit)


def is_number(kind: Any) -> bool:
    """Return whether an Arrow type is one of numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def to_floats(column: Any) -> NDArray[np.float64]:
    """Return a column of numbers as an array, shape (N,); NaN where a value is missing."""
    floats = pc.cast(column, pa.float64(), safe=False)
    return np.array(floats.to_numpy(zero_copy_only=False), dtype=np.float64)
