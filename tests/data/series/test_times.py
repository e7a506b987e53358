"""Times of a series: formats, order, steps, and what is refused or repaired."""

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from stratoscope.data import Series, SeriesSource, load_series
from stratoscope.errors import InputError
from tests.data.series.files import HOURS, NUM, X, Y, changed, lines, times, write

BERLIN_WINTER = timezone(timedelta(hours=1))


def plain(tmp_path: Path) -> Series:
    return load_series(SeriesSource(write(tmp_path, lines(), name="plain.csv")))


def refused(path: str, **options: object) -> str:
    with pytest.raises(InputError) as refusal:
        load_series(SeriesSource(path, **options))
    message = str(refusal.value)
    assert "\n" not in message
    assert len(message) <= 500
    return message


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%dT%H:%M:%S",
        "%Y-%m-%d %H:%M:%S.000000",
        "%Y/%m/%d %H:%M",
        "%Y%m%d%H",
        "%d.%m.%Y %H:%M",
        "%m/%d/%Y %I:%M %p",
        "%d-%b-%Y %H:%M",
        "%Y-%m-%d %H:%M UTC",
        "%Y-%m-%dT%H:%MZ",
        lambda hour: hour.replace(tzinfo=UTC).astimezone(BERLIN_WINTER).isoformat(),
        lambda hour: str(int(hour.replace(tzinfo=UTC).timestamp())),
        lambda hour: str(int(hour.replace(tzinfo=UTC).timestamp()) * 1000),
        # Excel leaves midnight out.
        lambda hour: hour.strftime("%d.%m.%Y %H:%M" if hour.hour else "%d.%m.%Y"),
    ],
)
def test_times_are_read_in_many_formats(form: object, tmp_path: Path) -> None:
    # Beyond the twelfth, the order of day and month is evident.
    rows = lines(times(form, datetime(2020, 1, 12)))
    series = load_series(SeriesSource(write(tmp_path, rows)))
    assert series.columns == ("x", "y")
    assert series.time is not None
    assert (series.time.first, series.time.last) == ("2020-01-12", "2020-01-14 11:00:00")
    assert series.time.step == "1 hour"
    assert series.fingerprint == plain(tmp_path).fingerprint


@pytest.mark.parametrize(
    ("days", "step"),
    [
        ([date(2000 + n // 12, n % 12 + 1, 1) for n in range(NUM)], "1 month"),
        ([date(2000 + n // 12, n % 12 + 1, 1) + timedelta(27) for n in range(NUM)], "1 month"),
        ([date(2000 + n // 4, 3 * (n % 4) + 1, 1) for n in range(NUM)], "3 months"),
        ([date(1900 + n, 1, 1) for n in range(NUM)], "1 year"),
        ([date(2020, 1, 6) + timedelta(n + 2 * (n // 5)) for n in range(NUM)], "1 business day"),
        ([date(2020, 1, 6) + timedelta(7 * n) for n in range(NUM)], "7 days"),
    ],
)
def test_a_step_may_be_a_month_or_a_business_day(days: list[date], step: str, tmp_path: Path) -> None:
    series = load_series(SeriesSource(write(tmp_path, lines([day.isoformat() for day in days]))))
    assert series.time is not None
    assert series.time.step == step


def test_the_last_days_of_months_have_one_step(tmp_path: Path) -> None:
    days = [date(2000 + (n + 1) // 12, (n + 1) % 12 + 1, 1) - timedelta(1) for n in range(NUM)]
    path = write(tmp_path, lines([day.isoformat() for day in days]))
    assert load_series(SeriesSource(path)).time.step == "1 month"
    gap = write(tmp_path, [row for n, row in enumerate(lines([day.isoformat() for day in days])) if n != 20])
    assert "1 missing time in 'date' (step 1 month), the first between 2001-08-31 and 2001-10-31" in refused(gap)


def test_dates_that_can_be_read_in_two_ways_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, lines([f"01/{n + 1:02}/2020" for n in range(12)]))
    assert "set series.dates to day_first or month_first" in refused(path)
    assert load_series(SeriesSource(path, dates="day_first")).time.step == "1 month"
    assert load_series(SeriesSource(path, dates="month_first")).time.step == "1 day"
    # Over five years, only one reading has equal steps.
    months = write(tmp_path, lines([f"01/{n % 12 + 1:02}/{2000 + n // 12}" for n in range(NUM)]))
    series = load_series(SeriesSource(months))
    assert series.time.step == "1 month"
    assert "dates in 'date' are read day first" in series.notes


def test_newest_first_is_turned_round_and_said(tmp_path: Path) -> None:
    series = load_series(SeriesSource(write(tmp_path, lines()[::-1])))
    assert series.fingerprint == plain(tmp_path).fingerprint
    assert series.notes == ("rows were newest first by 'date' and are turned round",)


def test_a_limit_keeps_the_oldest_times(tmp_path: Path) -> None:
    newest_first = write(tmp_path, lines()[::-1])
    oldest = write(tmp_path, lines()[:30], name="oldest.csv")
    assert (
        load_series(SeriesSource(newest_first, limit=30)).fingerprint == load_series(SeriesSource(oldest)).fingerprint
    )


def test_shuffled_rows_are_refused_or_sorted(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(NUM)
    path = write(tmp_path, [lines()[row] for row in order])
    message = refused(path)
    assert "times in 'date' are out of order" in message
    assert "in line " in message
    assert "series.fill" in message
    for fill in ("interpolate", "forward"):
        series = load_series(SeriesSource(path, fill=fill))
        assert series.fingerprint == plain(tmp_path).fingerprint
        assert series.notes == (f"rows were out of order and are sorted by 'date' (series.fill {fill})",)
    as_it_is = load_series(SeriesSource(path, time=("none",)))
    assert as_it_is.time is None
    assert as_it_is.fingerprint != plain(tmp_path).fingerprint


def test_the_last_row_of_a_repeated_time_is_kept(tmp_path: Path) -> None:
    rows = lines()
    path = write(tmp_path, [*rows[:5], f"{HOURS[4]},99,98", *rows[5:]])
    assert "1 repeated time in 'date' among 61 rows, the first 2020-01-01 04:00:00 in line 7" in refused(path)
    series = load_series(SeriesSource(path, fill="forward"))
    raw = series.values * series.deviation + series.mean
    assert len(raw) == NUM
    np.testing.assert_allclose(raw[4], [99, 98], rtol=1e-5)


def test_missing_times_are_refused_or_filled(tmp_path: Path) -> None:
    path = write(tmp_path, [row for n, row in enumerate(lines(x=list(range(NUM)))) if n not in (10, 11, 30)])
    assert "3 missing times in 'date' (step 1 hour), the first between 2020-01-01 09:00:00" in refused(path)

    def first_column(fill: str) -> np.ndarray:
        series = load_series(SeriesSource(path, fill=fill))
        assert f"3 missing times inserted (series.fill {fill})" in series.notes
        assert f"6 values (5.0%) filled (series.fill {fill})" in series.notes
        return (series.values * series.deviation + series.mean)[:, 0]

    np.testing.assert_allclose(first_column("interpolate"), np.arange(NUM), atol=1e-4)
    expected = np.array(changed(list(range(NUM)), r10=9, r11=9, r30=29))
    np.testing.assert_allclose(first_column("forward"), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            changed(times("%Y-%m-%d %H:%M"), r7="13/01/2020 07:00"),
            "line 9: '13/01/2020 07:00' is not readable",
        ),
        (changed(times("%Y-%m-%d %H:%M"), r7=""), "line 9 has no time in column 'date'"),
        (changed(times("%Y-%m-%d"), r7="2020-02-30"), "line 9: '2020-02-30' is not readable"),
        (
            times(lambda hour: f"{hour}+01:00" if hour.hour else f"{hour}"),
            "line 2: '2020-01-01 00:00:00' is not readable",
        ),
        ([f"t{n}" for n in range(NUM)], "'t0' in line 2 is no time; name the columns of the time with series.time"),
        (times("%H:%M"), "'00:00' in line 2 is no time"),
        (times(lambda h: str(h + timedelta(seconds=h.hour**2))), "no common step: see 2020-01-01 02:00:04 in line 4"),
        (changed(times(str), r59="2200-01-01 00:00:00"), "1,577,"),
        (
            [f"{value:.3f}" for value in np.random.default_rng(0).normal(size=NUM)],
            "the numbers in column 'date' are no times",
        ),
    ],
)
def test_times_that_are_none_are_refused(column: list[str], message: str, tmp_path: Path) -> None:
    assert message in refused(write(tmp_path, lines(column)))


def test_a_gap_longer_than_the_series_is_not_filled(tmp_path: Path) -> None:
    path = write(tmp_path, lines(changed(times(str), r59="2200-01-01 00:00:00")))
    assert "too many to be filled" in refused(path, fill="forward")


@pytest.mark.parametrize(
    ("header", "form", "names"),
    [
        ("Date,Time,x,y", "%d/%m/%Y,%H:%M:%S", "'Date' and 'Time'"),
        ("day,hr,x,y", "%Y-%m-%d,%H", "'day' and 'hr'"),
        (
            "year,month,day,hour,x,y",
            "%Y,%m,%d,%H",
            "'year' and 'month' and 'day' and 'hour'",
        ),
    ],
)
def test_a_time_may_be_in_several_columns(header: str, form: str, names: str, tmp_path: Path) -> None:
    path = write(tmp_path, lines(times(form)), header)
    series = load_series(SeriesSource(path))
    assert series.time.column == names
    assert series.time.step == "1 hour"
    assert series.fingerprint == plain(tmp_path).fingerprint


def test_columns_of_the_time_can_be_named(tmp_path: Path) -> None:
    rows = [f"{HOURS[n]:%H:%M},{HOURS[n]:%Y-%m-%d},{X[n]},{Y[n]}" for n in range(NUM)]
    path = write(tmp_path, rows, "a,b,x,y")
    assert load_series(SeriesSource(path, time=("b", "a"))).fingerprint == plain(tmp_path).fingerprint
    assert "no column is called 'c'" in refused(path, time=("c",))


@pytest.mark.parametrize("index", ["", "Unnamed: 0", "index"])
def test_an_index_is_not_forecast(index: str, tmp_path: Path) -> None:
    rows = [f"{number},{row}" for number, row in enumerate(lines())]
    series = load_series(SeriesSource(write(tmp_path, rows, f"{index},date,x,y")))
    assert series.columns == ("x", "y")
    assert series.notes == (f"columns that number the rows are left out: {index or 'Unnamed: 0'!r}",)


@pytest.mark.parametrize(("index", "first"), [("", 0), ("", 7), ("obs", 1)])
def test_an_index_that_begins_anew_in_each_series_is_not_forecast(index: str, first: int, tmp_path: Path) -> None:
    numbers = list(range(first, first + NUM)) * 2
    cells = zip(numbers, HOURS * 2, X + Y, "x" * NUM + "y" * NUM, strict=True)
    rows = [",".join(map(str, row)) for row in cells]
    for content in (rows, [row for pair in zip(rows[:NUM], rows[NUM:], strict=True) for row in pair]):
        series = load_series(SeriesSource(write(tmp_path, content, f"{index},ds,value,which")))
        assert series.fingerprint == plain(tmp_path).fingerprint
        assert f"columns that number the rows are left out: {index or 'Unnamed: 0'!r}" in series.notes


def test_a_column_that_only_looks_like_an_index_is_forecast(tmp_path: Path) -> None:
    rows = [f"{n % 5},{row}" for n, row in enumerate(lines())]
    for index in ("", "obs"):
        assert len(load_series(SeriesSource(write(tmp_path, rows, f"{index},date,x,y"))).columns) == 3


def test_times_with_a_zone_are_read_in_utc_and_said(tmp_path: Path) -> None:
    path = tmp_path / "waves.parquet"
    zoned = pa.array([hour.replace(tzinfo=UTC) for hour in HOURS], pa.timestamp("ms", "Europe/Paris"))
    pyarrow.parquet.write_table(pa.table({"date": zoned, "x": X, "y": Y}), path)
    series = load_series(SeriesSource(str(path)))
    assert (series.fingerprint, series.time) == (plain(tmp_path).fingerprint, plain(tmp_path).time)
    assert series.notes == ("times in 'date' are read in UTC",)


def test_an_index_shows_shuffled_rows_where_there_is_no_time(tmp_path: Path) -> None:
    rows = [f"{number},{X[number]},{Y[number]}" for number in range(NUM)]
    assert load_series(SeriesSource(write(tmp_path, rows, ",x,y"))).time.step == "1"
    assert "'Unnamed: 0' are out of order" in refused(write(tmp_path, [*rows[5:], *rows[:5]], ",x,y"))


def test_one_row_is_too_few(tmp_path: Path) -> None:
    assert "1 rows are too few" in refused(write(tmp_path, lines()[:1]))
