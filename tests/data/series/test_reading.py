"""Reading files of series: delimiters, headers, numbers, encodings, kinds of files."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest

from stratoscope.data import Series, SeriesSource, load_series
from tests.data.series.files import HOURS, NUM, X, Y, changed, lines, times, write
from tests.data.series.test_times import plain, refused


def load(path: str, **options: object) -> Series:
    return load_series(SeriesSource(path, **options))


def comma(value: float) -> str:
    return str(value).replace(".", ",")


@pytest.mark.parametrize("mark", ["?", "-9999", "NA", "", "nan", "null", "-"])
def test_marks_of_missing_values_are_refused_or_filled(mark: str, tmp_path: Path) -> None:
    path = write(tmp_path, lines(x=changed(X, r7=mark, r20=mark)))
    message = refused(path)
    assert "column 'x' has 2 missing values, the first at 2020-01-01 07:00:00" in message
    assert f"{mark!r} in line 9" in message or "an empty cell in line 9" in message
    series = load(path, fill="interpolate")
    raw = (series.values * series.deviation + series.mean)[:, 0]
    assert raw[7] == pytest.approx((X[6] + X[8]) / 2, abs=1e-4)
    assert "2 values (1.7%) filled (series.fill interpolate)" in series.notes


def test_a_number_that_stands_for_missing_can_be_one(tmp_path: Path) -> None:
    path = write(tmp_path, lines(x=changed(X, r7="-9999")))
    series = load(path, missing=("NA",))
    assert "questioned: 1 value implausibly far from the training part, such as -9999 of 'x'" in series.notes[-1]
    near = write(tmp_path, lines(x=changed([100 * x for x in range(-30, 30)], r7="-999")))
    assert load(near).notes == ()


def test_missing_marks_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, lines(x=changed(X, r7="error", r8="-1.0")))
    assert "column 'x', line 9: 'error' is no number (1 such cell)" in refused(path)
    assert load(path, missing=("error", "-1"), fill="forward").notes == (
        "2 values (1.7%) filled (series.fill forward)",
    )


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize(("value", "mark"), [(-5.25, "-5.25"), (-9999.0, "-9999"), (0.0, "0"), (-9999, "-9999")])
def test_numbers_named_as_missing_are_so_in_every_kind_of_file(
    kind: str, value: float, mark: str, tmp_path: Path
) -> None:
    path = str(tmp_path / f"waves.{kind}")
    x = changed([round(x) for x in X] if isinstance(value, int) else X, r7=value)
    if kind == "parquet":
        pyarrow.parquet.write_table(table(x=x), path)
    else:
        rows = zip(times("%Y-%m-%d %H:%M"), x, Y, strict=True)
        Path(path).write_text("\n".join(json.dumps({"date": d, "x": a, "y": b}) for d, a, b in rows))
    assert f"such as {str(value)!r} in row 7" in refused(path, missing=("NA", mark))
    series = load(path, missing=(mark,), fill="forward")
    raw = (series.values * series.deviation + series.mean)[:, 0]
    assert raw[7] == pytest.approx(x[6], abs=1e-4)


def test_infinities_are_refused_unless_they_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "waves.parquet")
    pyarrow.parquet.write_table(table(x=changed(X, r7=float("inf"))), path)
    assert "row 7: 'inf' is no number (1 such cell); correct it, name such cells in series.missing" in refused(path)
    assert load(path, missing=("inf",), fill="forward").notes == ("1 value (0.8%) filled (series.fill forward)",)


@pytest.mark.parametrize("value", [-99.9, 999.9, 1e20, -9999.0])
def test_float32_columns_have_marks_of_missing_values(value: float, tmp_path: Path) -> None:
    path = str(tmp_path / "waves.parquet")
    pyarrow.parquet.write_table(table(x=pa.array(changed(X, r7=value), pa.float32())), path)
    notes = load(path, fill="forward").notes
    assert f"1 value of {value:g} in 'x', far from all others, taken as missing" in notes[0]
    assert load(path, fill="forward", missing=(str(value),)).notes == ("1 value (0.8%) filled (series.fill forward)",)


def test_values_without_a_neighbour_are_not_made_up(tmp_path: Path) -> None:
    first = write(tmp_path, lines(x=changed(X, r0="")))
    assert "cut the start off" in refused(first, fill="forward")
    last = write(tmp_path, lines(x=changed(X, r59="")))
    assert "cut the end off" in refused(last, fill="interpolate")
    half = write(tmp_path, lines(x=changed(X, **{f"r{row}": "" for row in range(20, 40)})))
    assert "questioned: 33% of the values of 'x' are filled" in load(half, fill="forward").notes[-1]


def test_a_numeric_column_is_not_dropped_for_a_text_cell(tmp_path: Path) -> None:
    path = write(tmp_path, lines(x=changed(X, r7="inf")))
    assert "column 'x', line 9: 'inf' is no number" in refused(path)
    assert load(path, columns=("y",)).columns == ("y",)
    labels = write(tmp_path, [f"{row},{'ab'[n % 2]},,True" for n, row in enumerate(lines())], "date,x,y,kind,empty,on")
    assert load(labels).notes == (
        "columns that are not numbers are left out: 'kind', 'on'",
        "columns without values are left out: 'empty'",
    )


def test_a_file_without_header_is_read_from_its_first_line(tmp_path: Path) -> None:
    path = write(tmp_path, lines(), header=None)
    series = load(path)
    assert series.columns == ("c2", "c3")
    assert len(series.values) == NUM
    assert "the file has no header; columns are called c1 to c3" in series.notes
    without_time = write(tmp_path, [row.partition(",")[2] for row in lines()], header=None)
    assert len(load(without_time).values) == NUM
    assert load(without_time, header="yes").values.shape == (NUM - 1, 2)


@pytest.mark.parametrize("header", ["date,0,1", "date,0,OT"])
def test_a_header_of_numbers_is_one(header: str, tmp_path: Path) -> None:
    assert load(write(tmp_path, lines(), header)).columns == tuple(header.split(",")[1:])


def test_decimal_commas_are_recognised_and_said(tmp_path: Path) -> None:
    rows = [f"{h:%d.%m.%Y %H:%M};{comma(x)};{comma(y)}" for h, x, y in zip(HOURS, X, Y, strict=True)]
    series = load(write(tmp_path, rows, "date;x;y"))
    np.testing.assert_array_equal(series.values, plain(tmp_path).values)
    assert series.notes == (
        "the delimiter is ';'",
        "dates in 'date' are read day first",
        "numbers are read with a decimal comma in 'x', 'y'",
    )


@pytest.mark.parametrize(
    ("written", "delimiter"),
    [
        (lambda v: f'"{1000 * v:,.1f}"', ","),
        (lambda v: f"{1000 * v:,.1f}".translate({44: ".", 46: ","}), ";"),
        (lambda v: f"{1000 * v:,.1f}".replace(",", "'"), ";"),
        (lambda v: f"{1000 * v:,.1f}".translate({44: "\u202f", 46: ","}), ";"),
        (lambda v: f"+{1000 * v:e} %", ";"),
    ],
)
def test_thousands_and_percentages_are_read(written: object, delimiter: str, tmp_path: Path) -> None:
    rows = [delimiter.join([str(hour), written(x)]) for hour, x in zip(HOURS, X, strict=True)]
    series = load(write(tmp_path, rows, delimiter.join(["date", "x"])))
    raw = (series.values * series.deviation + series.mean)[:, 0]
    np.testing.assert_allclose(raw, [1000 * x for x in X], rtol=1e-4)
    assert any("thousands" in note or "percent" in note for note in series.notes)


def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path: Path) -> None:
    rows = [f"{hour};{int(1000 * x):,}" for hour, x in zip(HOURS, X, strict=True)]
    rows = [row for row in rows if row.count(",") == 1]
    path = write(tmp_path, rows, "date;x")
    assert "set series.decimal to comma or point" in refused(path, time=("none",))
    point, as_comma = (load(path, time=("none",), decimal=mark) for mark in ("point", "comma"))
    assert point.mean[0] == pytest.approx(1000 * as_comma.mean[0])


@pytest.mark.parametrize(("with_percent", "without"), [("12.5%", "12.5"), ("12,34%", "56,78"), ("5%", "1'000.5")])
def test_percentages_and_other_numbers_do_not_mix(with_percent: str, without: str, tmp_path: Path) -> None:
    cells = changed([with_percent] * NUM, r7=without)
    path = write(tmp_path, barred(cells), "date|x|y")
    assert "column 'x' has numbers with and without %" in refused(path)


def barred(x: list[str]) -> list[str]:
    """Return the rows of a file with bars between cells."""
    return [f"{hour}|{cell}|{y}" for hour, cell, y in zip(HOURS, x, Y, strict=True)]


def test_missing_cells_and_texts_may_stand_among_percentages(tmp_path: Path) -> None:
    path = write(tmp_path, barred(changed([f"{x}%" for x in X], r7="-1", r8="NA")), "date|x|y")
    assert "2 values (1.7%) filled" in load(path, missing=("-1", "na"), fill="forward").notes[-1]
    rows = [f"{row};{'up by 5%' if n % 2 else '3 items'}" for n, row in enumerate(lines())]
    path = write(tmp_path, [row.replace(",", ";") for row in rows], "date;x;y;text")
    assert load(path).columns == ("x", "y")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*lines(), "2020-01-26,1"], "line 62 has 2 cells, but line 1 has 3"),
        ([*lines()[:3], '2020-01-01 03:00:00,"1,2'], "line 5 has an odd number of quotation marks"),
        ([], "holds no rows"),
        (["some text", "and more"], "line 2 has 1 cells"),
    ],
)
def test_lines_that_do_not_fit_are_named(rows: list[str], message: str, tmp_path: Path) -> None:
    assert message in refused(write(tmp_path, rows))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    assert "two columns are called 'x'" in refused(write(tmp_path, lines(), "date,x,x"))


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-8-sig", None),
        ("utf-16", None),
        ("utf-16-le", "byte 0x00 in line 1 is no text"),
        ("latin-1", "byte 0xb0 in line 1 is not utf-8; name the encoding with series.encoding"),
    ],
)
def test_encodings_are_recognised_or_named(encoding: str, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "waves.csv"
    path.write_text("\n".join(["date,T (°C),y", *lines()]) + "\n", encoding=encoding)
    if message is not None:
        assert message in refused(str(path))
    assert load(str(path), encoding=encoding if message else None).columns == ("T (°C)", "y")


def table(**columns: list) -> pa.Table:
    return pa.table({"date": HOURS, "x": X, "y": Y} | columns)


def write_stream(content: pa.Table, path: str) -> None:
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, content.schema) as writer:
        writer.write_table(content)


@pytest.mark.parametrize(
    ("name", "writer"),
    [
        ("waves.parquet", pyarrow.parquet.write_table),
        ("waves.feather", pyarrow.feather.write_feather),
        ("waves.arrow", write_stream),
    ],
)
def test_parquet_and_arrow_are_read_like_text(name: str, writer: object, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    writer(table(), path)
    expected = plain(tmp_path)
    assert load(path).fingerprint == expected.fingerprint
    assert load(path).time.step == "1 hour"
    writer(table(x=[str(x) for x in X], date=times("%Y-%m-%dT%H:%MZ")), path)
    assert load(path).fingerprint == expected.fingerprint
    order = list(range(30, NUM)) + list(range(30))
    writer(table().take(order), path)
    assert "'date' are out of order: 2020-01-01 in row 30" in refused(path)
    writer(table(x=changed(X, r7=None)), path)
    assert "1 missing value, the first at 2020-01-01 07:00:00, such as an empty cell in row 7" in refused(path)
    ids = [*["x"] * NUM, *["y"] * NUM]
    writer(pa.table({"ds": HOURS * 2, "unique_id": pa.array(ids).dictionary_encode(), "y": X + Y}), path)
    assert load(path).fingerprint == expected.fingerprint


def test_a_compressed_file_and_a_folder_of_parts_are_read(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "waves.csv.gz"
    path.write_bytes(gzip.compress(("\n".join(["date,x,y", *lines()]) + "\n").encode()))
    assert load(str(path)).name == "waves"
    parts = tmp_path / "parts"
    parts.mkdir()
    write(parts, lines()[:30], name="a.csv")
    write(parts, lines()[30:], name="b.csv")
    series = load(str(parts))
    assert series.fingerprint == load(str(path)).fingerprint == plain(tmp_path).fingerprint
    assert series.notes == ("2 files of the folder are read one after another: 'a.csv', 'b.csv'",)
    write(parts, lines(), name="b.csv")
    assert "out of order" in refused(str(parts))
    write(parts, ["1,2"], "x,y", name="b.csv")
    assert "different columns" in refused(str(parts))


@pytest.mark.parametrize("name", ["broken.parquet", "broken.arrow", "broken.csv.gz", "broken.xlsx"])
def test_a_broken_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"abc" * 100)
    assert "cannot be read" in refused(str(path))


@pytest.mark.parametrize("source", ["", " ", "nowhere.csv", "a" * 400, "/tmp/" + "a" * 400])
def test_a_source_that_does_not_exist_is_refused(source: str) -> None:
    assert "series.source" in refused(source)
