import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pytest

from stratoscope.results import ByTask, Int16, Int32, TableRow, from_parquet, to_parquet


@dataclass(frozen=True)
class KeyRow(TableRow):
    """What rows of two tables begin with."""

    name: str
    """Name of the
    unit."""
    layer: Int32
    """Index of the layer."""


@dataclass(frozen=True)
class WideRow(KeyRow):
    """A row with every kind of column."""

    mean: float
    """Mean."""
    variance: float | None
    """Variance; null for a single unit."""
    tap: Literal["block", "update"]
    """Where the layer was read."""
    kept: bool
    """Whether the layer is kept."""
    counts: tuple[int, ...]
    """Counts by bin."""
    shares: tuple[float, ...] | None
    """Shares by bin."""
    part: Int16 = 0
    """Part of the unit."""
    figures: Annotated[Mapping[str, float], pa.map_(pa.string(), pa.float64())] | None = None
    """Figures by name."""


@dataclass(frozen=True)
class TrialRow(TableRow):
    """A trial with a column per task."""

    trial_id: str
    """Id of the trial."""
    accuracy: ByTask
    """Accuracy on the task."""
    seconds: float
    """Duration."""


def wide(**changes: object) -> WideRow:
    values = {"name": "a", "layer": 3, "mean": 1.5, "variance": None, "tap": "block", "kept": True}
    return WideRow(**values | {"counts": (1, 2), "shares": None} | changes)  # type: ignore[arg-type]


def test_the_schema_follows_from_the_annotations() -> None:
    assert {field.name: field.type for field in WideRow.schema()} == {
        "name": pa.string(),
        "layer": pa.int32(),
        "mean": pa.float64(),
        "variance": pa.float64(),
        "tap": pa.string(),
        "kept": pa.bool_(),
        "counts": pa.list_(pa.int64()),
        "shares": pa.list_(pa.float64()),
        "part": pa.int16(),
        "figures": pa.map_(pa.string(), pa.float64()),
    }


def test_an_annotation_without_an_arrow_type_is_refused() -> None:
    @dataclass(frozen=True)
    class UnclearRow(TableRow):
        value: complex
        """A complex number."""

    with pytest.raises(TypeError, match="no Arrow type follows from"):
        UnclearRow.schema()


def test_meanings_are_the_docstrings_of_fields_inherited_ones_included() -> None:
    meanings = {column.name: column.meaning for column in WideRow.columns()}
    assert list(meanings)[:3] == ["name", "layer", "mean"]
    assert meanings["name"] == "Name of the unit."
    assert meanings["layer"] == "Index of the layer."
    assert meanings["counts"] == "Counts by bin."
    assert WideRow.schema().field("layer").metadata == {b"description": b"Index of the layer."}


def test_rows_come_back_from_a_file_as_they_were() -> None:
    rows = [wide(), wide(name="b", variance=0.5, shares=(0.25, 0.75), figures={"x": 1.0})]
    table = from_parquet(to_parquet(WideRow.table(rows)))
    assert table.schema.equals(WideRow.schema())
    assert table["counts"].to_pylist() == [[1, 2], [1, 2]]
    again = WideRow.read(table)
    assert [(row.name, row.variance, row.kept, row.tap) for row in again] == [
        ("a", None, True, "block"),
        ("b", 0.5, True, "block"),
    ]
    assert WideRow.table([]).num_rows == 0


def test_nan_is_null_in_rows_and_in_whole_columns() -> None:
    rows = [wide(mean=math.nan, variance=np.float64("nan")), wide(mean=np.float32(0.5))]
    table = WideRow.table(rows)
    assert table["mean"].to_pylist() == [None, 0.5]
    assert table["variance"].to_pylist() == [None, None]

    columns = {"name": ["a", "b"], "layer": np.array([0, 1])}
    assert KeyRow.column_table(columns).to_pylist() == [{"name": "a", "layer": 0}, {"name": "b", "layer": 1}]
    filled = {"trial_id": ["a"], "seconds": np.array([np.nan])}

    @dataclass(frozen=True)
    class DurationRow(TableRow):
        trial_id: str
        """Id of the trial."""
        seconds: float
        """Duration."""

    assert DurationRow.column_table(filled)["seconds"].to_pylist() == [None]
    with pytest.raises(KeyError, match="seconds"):
        DurationRow.column_table({"trial_id": ["a"]})


def test_a_table_of_another_version_is_read_with_columns_more_or_less() -> None:
    older = KeyRow.table([KeyRow(name="a", layer=1)]).drop_columns(["layer"]).append_column("removed", pa.array([7]))
    assert KeyRow.read(older) == [KeyRow(name="a", layer=None)]  # type: ignore[arg-type]


def test_a_mapping_becomes_a_column_for_each_name() -> None:
    rows = [
        TrialRow(trial_id="0", accuracy={"sciq": 0.5, "sst2": math.nan}, seconds=2.0),
        TrialRow(trial_id="1", accuracy={"sciq": 0.25}, seconds=3.0),
    ]
    table = TrialRow.table(rows, ["sciq", "sst2"])
    assert table.column_names == ["trial_id", "sciq", "sst2", "seconds"]
    assert table["sst2"].to_pylist() == [None, None]
    assert table.schema.field("sciq").metadata == {b"description": b"Accuracy on the task."}
    assert TrialRow.read(table)[1] == TrialRow(trial_id="1", accuracy={"sciq": 0.25, "sst2": None}, seconds=3.0)
    assert TrialRow.table(rows).column_names == ["trial_id", "seconds"]


def test_the_order_of_values_does_not_decide_their_column() -> None:
    one = wide(variance=2.0, mean=1.0)
    table = WideRow.table([one])
    assert (table["mean"].to_pylist(), table["variance"].to_pylist()) == ([1.0], [2.0])
    swapped = table.select(["variance", "mean", *(n for n in table.column_names if n not in ("mean", "variance"))])
    assert WideRow.read(swapped)[0].mean == 1.0
    columns = KeyRow.column_table({"layer": np.array([1]), "name": ["a"]})
    assert columns.column_names == ["name", "layer"]
    with pytest.raises(TypeError, match="KeyRow takes its columns by name"):
        KeyRow("a", 1)
    assert pickle.loads(pickle.dumps(one)) == one
    assert replace(one, mean=3.0).mean == 3.0
