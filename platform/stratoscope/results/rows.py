"""Row types: a table is described by one data class, and everything else about it follows from that class.

The Arrow schema comes from the annotations of the fields, and the meaning of each column from the docstring below its
field. A new column is therefore one field with its docstring, and two columns cannot be swapped, since rows are built
by name. `docs/reference/tables.md` is generated from the same classes.
"""

import ast
import dataclasses
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Self, get_args, get_origin

import numpy as np
import pyarrow as pa

Int16 = Annotated[int, pa.int16()]
Int32 = Annotated[int, pa.int32()]

_PLAIN_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}


@dataclass(frozen=True)
class Expanded:
    """Marks a field that holds a mapping from names to values: every name becomes a column of its own."""

    type: pa.DataType = dataclasses.field(default_factory=pa.float64)


ByTask = Annotated[Mapping[str, float | None], Expanded()]
"""A column per task, named after it."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    type: pa.DataType
    meaning: str
    expanded: bool = False
    """Whether the field represents one column per name."""


class TableRow:
    """Base class of row types. A subclass is a frozen data class with a docstring below each field.

    Raises:
        TypeError: a value is passed by position; rows are built by name, so that no two columns can be swapped.
    """

    def __new__(cls, *values: object, **_: object) -> Self:
        """Refuse values by position."""
        if values:
            raise TypeError(f"{cls.__name__} takes its columns by name")
        return super().__new__(cls)

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """Return the columns in order."""
        return _columns(cls)  # type: ignore[arg-type] # a class is hashable

    @classmethod
    def schema(cls, names: Sequence[str] = ()) -> pa.Schema:
        """Return the Arrow schema; each field carries its meaning as metadata.

        Args:
            names: column names of the `Expanded` field.
        """
        fields = []
        for column in cls.columns():
            described = [column.name] if not column.expanded else names
            metadata = {"description": column.meaning}
            fields += [pa.field(name, column.type, metadata=metadata) for name in described]
        return pa.schema(fields)

    @classmethod
    def table(cls, rows: Iterable[Self], names: Sequence[str] = ()) -> pa.Table:
        """Return rows as a table; NaN becomes null.

        Args:
            rows: the rows in order.
            names: column names of the `Expanded` field.
        """
        listed = list(rows)
        arrays = []
        for column in cls.columns():
            values = [getattr(row, column.name) for row in listed]
            for part in [[v.get(name) for v in values] for name in names] if column.expanded else [values]:
                arrays.append(pa.array([_null(value) for value in part], column.type))
        return pa.Table.from_arrays(arrays, schema=cls.schema(names))

    @classmethod
    def column_table(cls, columns: Mapping[str, Any]) -> pa.Table:
        """Return whole columns as a table, for tables that are computed as arrays.

        Args:
            columns: one value per row, by name.

        Raises:
            KeyError: a column is missing.
        """
        schema = cls.schema()
        return pa.Table.from_arrays([_array(columns[f.name], f.type) for f in schema], schema=schema)

    @classmethod
    def read(cls, table: pa.Table) -> list[Self]:
        """Return the rows of a table.

        Unknown columns are dropped. Columns that an older version did not write are None. Names without a field go to
        the `Expanded` field, where there is one.
        """
        known = {column.name for column in cls.columns()}
        expanded = next((column.name for column in cls.columns() if column.expanded), None)
        rows = []
        for values in table.to_pylist():
            plain = {name: values.get(name) for name in known}
            if expanded is not None:
                plain[expanded] = {name: value for name, value in values.items() if name not in known}
            rows.append(cls(**plain))
        return rows


@cache
def _columns(row_type: type[TableRow]) -> tuple[Column, ...]:
    hints = typing.get_type_hints(row_type, include_extras=True)
    meanings: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(row_type.__mro__)):
        meanings |= attribute_docstrings(base)
    fields = dataclasses.fields(row_type)  # type: ignore[arg-type]
    return tuple(_column(field.name, hints[field.name], meanings.get(field.name, "")) for field in fields)


def _column(name: str, annotation: Any, meaning: str) -> Column:
    expanded = [extra for extra in _extras(annotation) if isinstance(extra, Expanded)]
    return Column(name, expanded[0].type if expanded else _arrow_type(annotation), meaning, bool(expanded))


def _arrow_type(annotation: Any) -> pa.DataType:
    """Return the Arrow type of an annotation.

    `Annotated[..., pa.int32()]` states it; otherwise it follows from the Python type. `X | None` has the type of X, for
    every column is nullable, and `tuple[X, ...]` is a list of X.

    Raises:
        TypeError: no Arrow type follows from the annotation.
    """
    stated = [extra for extra in _extras(annotation) if isinstance(extra, pa.DataType)]
    if stated:
        return stated[0]
    if annotation in _PLAIN_TYPES:
        return _PLAIN_TYPES[annotation]
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is typing.Union:
        return _arrow_type(arguments[0])
    if get_origin(annotation) in (tuple, list, Sequence):
        return pa.list_(_arrow_type(arguments[0]))
    if get_origin(annotation) is typing.Literal:
        return _PLAIN_TYPES[type(arguments[0])]
    raise TypeError(f"no Arrow type follows from {annotation!r}; use Annotated[..., pa.DataType]")


def _extras(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def attribute_docstrings(owner: type) -> dict[str, str]:
    """Return the docstring below each attribute that a class defines itself, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    docstrings = {}
    for node, below in pairwise(definition.body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(below, ast.Expr):
            docstrings[target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return docstrings


def _null(value: Any) -> Any:
    """Return a value as Arrow takes it: NaN is null, and a tuple a list."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    """Return values as an Arrow array; NaN is null."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return pa.array(values, kind, from_pandas=True)
    return values if isinstance(values, pa.Array) else pa.array(values, kind)
