"""Several series in one file, told apart by a column."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stratoscope.data import SeriesSource, load_series
from tests.data.series.files import HOURS, NUM, X, Y, write
from tests.data.series.test_times import plain, refused

ROWS = [
    f"{hour},{value},{name}" for name, column in (("x", X), ("y", Y)) for hour, value in zip(HOURS, column, strict=True)
]
NUMBERED = [f"{row.rpartition(',')[0]},{number // NUM}" for number, row in enumerate(ROWS)]
HEADERS = ("date,data,cols", "ds,y,unique_id", "time,value,which")
INTERLEAVED = [row for pair in zip(ROWS[:NUM], ROWS[NUM:], strict=True) for row in pair]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("rows", [ROWS, INTERLEAVED])
def test_long_form_is_pivoted(header: str, rows: list[str], tmp_path: Path) -> None:
    series = load_series(SeriesSource(write(tmp_path, rows, header)))
    assert series.fingerprint == plain(tmp_path).fingerprint
    assert f"column {header.split(',')[2]!r} names 2 series, which give the columns 'x', 'y'" in series.notes[-1]


def test_newest_first_is_turned_round_in_every_series(tmp_path: Path) -> None:
    path = write(tmp_path, [*ROWS[:NUM][::-1], *ROWS[NUM:][::-1]], HEADERS[0])
    series = load_series(SeriesSource(path))
    assert series.fingerprint == plain(tmp_path).fingerprint
    assert "rows were newest first by 'date' and are turned round" in series.notes


def test_series_of_long_form_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS, HEADERS[0])
    series = load_series(SeriesSource(path, columns=("y",), limit=40))
    assert series.columns == ("y",)
    np.testing.assert_allclose(series.values[:, 0] * series.deviation + series.mean, Y[:40], rtol=1e-5)
    assert "has no column 'z'" in refused(path, columns=("z",))


@pytest.mark.parametrize("header", ["date,a,cols", "date,a,cols,b"])
def test_a_series_is_chosen_by_its_whole_name(header: str, tmp_path: Path) -> None:
    names = ["BF"] * NUM + ["BF.B"] * NUM
    cells = zip(HOURS * 2, X + Y, names, Y + X, strict=True)
    rows = [",".join(map(str, row[: header.count(",") + 1])) for row in cells]
    path = write(tmp_path, rows, header)
    expected = ("BF",) if header == "date,a,cols" else ("BF.a", "BF.b")
    assert load_series(SeriesSource(path, columns=("BF",))).columns == expected


def test_several_columns_of_values_are_pivoted_each(tmp_path: Path) -> None:
    path = write(tmp_path, [f"{row},{n}" for n, row in enumerate(ROWS)], "date,a,cols,b")
    assert load_series(SeriesSource(path)).columns == ("x.a", "y.a", "x.b", "y.b")


def write_both(folder: Path, columns: dict[str, list]) -> tuple[str, str]:
    """Write a table as Parquet and as JSON lines, and return the paths."""
    paths = str(folder / "waves.parquet"), str(folder / "waves.jsonl")
    pyarrow.parquet.write_table(pa.table(columns), paths[0])
    rows = zip(*columns.values(), strict=True)
    lines = [json.dumps(dict(zip(columns, row, strict=True)), default=str) for row in rows]
    Path(paths[1]).write_text("\n".join(lines))
    return paths


@pytest.mark.parametrize("first", [1_000_001, 2**60])
def test_numbers_that_name_series_keep_all_digits(first: int, tmp_path: Path) -> None:
    ids = [first] * NUM + [first + 1] * NUM
    rows = [",".join(map(str, row)) for row in zip(HOURS * 2, X + Y, ids, strict=True)]
    expected = load_series(SeriesSource(write(tmp_path, rows, "date,data,item_id")))
    assert expected.columns == (str(first), str(first + 1))
    for path in write_both(tmp_path, {"date": HOURS * 2, "data": X + Y, "item_id": ids}):
        series = load_series(SeriesSource(path))
        assert series.columns == expected.columns
        np.testing.assert_array_equal(series.values, expected.values)


def test_whole_floats_name_series_without_a_decimal_point(tmp_path: Path) -> None:
    columns = {"date": HOURS * 2, "data": X + Y, "item_id": [1e6] * NUM + [1e6 + 1] * NUM}
    assert load_series(SeriesSource(write_both(tmp_path, columns)[0])).columns == ("1000000", "1000001")


def test_integers_and_floats_in_the_files_of_a_folder_are_one_column(tmp_path: Path) -> None:
    for number, values in enumerate(([round(x) for x in X], Y)):
        table = pa.table({"date": HOURS, "data": values, "cols": [f"s{number}"] * NUM})
        pyarrow.parquet.write_table(table, tmp_path / f"{number}.parquet")
    assert load_series(SeriesSource(str(tmp_path))).columns == ("s0", "s1")


def test_series_that_would_share_a_name_are_refused(tmp_path: Path) -> None:
    names = ["a"] * NUM + ["a.b"] * NUM
    rows = [f"{hour},{name},{n},{-n}" for n, (hour, name) in enumerate(zip(HOURS * 2, names, strict=True))]
    path = write(tmp_path, rows, "date,cols,b.c,c")
    assert "two series in long form would be called 'a.b.c'" in refused(path)
    assert load_series(SeriesSource(path, columns=("c",))).columns == ("a", "a.b")


def test_a_missing_row_of_a_series_is_refused_or_filled(tmp_path: Path) -> None:
    path = write(tmp_path, [*ROWS[:7], *ROWS[8:]], HEADERS[0])
    assert "column 'x' has 1 missing value, the first at 2020-01-01 07:00:00" in refused(path)
    assert "1 value (0.8%) filled (series.fill forward)" in load_series(SeriesSource(path, fill="forward")).notes


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([f"{row},{row[-1]}{row[-1]}" for row in ROWS], "date,a,b,c", "several columns may name the series: 'b', 'c'"),
        ([row.partition(",")[2] for row in ROWS], "data,cols", "'cols' seems to name 2 series one after another"),
        ([row.rpartition(",")[0] for row in INTERLEAVED], "date,data", "60 repeated times in 'date' among 120 rows"),
        (NUMBERED, "date,data,pump", "name it with series.id"),
    ],
)
def test_series_that_are_not_evident_are_refused(rows: list[str], header: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, rows, header)
    assert message in refused(path)
    if "several" not in message and "cols" not in header:
        # Half of the rows would be lost.
        assert "repeated times" in refused(path, fill="forward")


def test_the_column_of_the_series_can_be_named(tmp_path: Path) -> None:
    series = load_series(SeriesSource(write(tmp_path, NUMBERED, "date,data,pump"), id="pump"))
    assert series.columns == ("0", "1")
    np.testing.assert_array_equal(series.values, plain(tmp_path).values)
    without_time = write(tmp_path, [row.partition(",")[2] for row in ROWS], "data,cols")
    assert load_series(SeriesSource(without_time, id="cols")).fingerprint == plain(tmp_path).fingerprint
    assert "no column is called 'q'" in refused(without_time, id="q")
