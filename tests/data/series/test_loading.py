"""Series: splitting, standardisation, windows, known series."""

from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from stratoscope.data import SeriesSource, load_series
from stratoscope.data.series.source import EMPLOYMENT
from stratoscope.errors import InputError


def written(folder: Path, num: int, name: str = "series.csv", **columns: list) -> str:
    time = np.arange(num)
    dates = [datetime(2020, 1, 1) + timedelta(hours=t) for t in range(num)]
    table = {"date": dates, "a": np.sin(time).tolist(), "b": (time * 2.0).tolist()} | columns
    lines = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_a_series_is_split_in_time_and_standardised_by_its_training_part(tmp_path: Path) -> None:
    series = load_series(SeriesSource(written(tmp_path, 100)))
    assert series.columns == ("a", "b")
    assert series.bounds == (70, 80, 100)
    np.testing.assert_allclose(series.values[:70].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(series.values[:70].std(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(
        series.values[:, 1] * series.deviation[1] + series.mean[1], 2.0 * np.arange(100), atol=1e-4
    )


def test_windows_cover_every_row_of_their_part(tmp_path: Path) -> None:
    series = load_series(SeriesSource(written(tmp_path, 100)))
    train, validation, test = (series.starts(part, 6, 3) for part in ("train", "validation", "test"))
    assert (train[0], train[-1] + 9) == (0, 70)
    # The rows forecast start and end with the part.
    assert (validation[0] + 6, validation[-1] + 9) == (70, 80)
    assert (test[0] + 6, test[-1] + 9) == (80, 100)
    assert len(test) == 18


def test_ett_files_are_split_by_months(tmp_path: Path) -> None:
    series = load_series(SeriesSource(written(tmp_path, 15_000, "ETTh1.csv")))
    assert series.bounds == (8640, 11520, 14400)
    assert series.notes == ("the split by months takes 20 months; the last 600 rows are left out",)
    assert len(series.starts("test", 96, 48)) == 2880 - 48 + 1


@pytest.mark.parametrize(
    ("changes", "source", "message"),
    [
        ({"b": [1.0] * 60}, {}, "'b' is constant"),
        ({"b": [98765.4] * 60}, {}, "'b' is constant"),
        ({"b": [1.0, "", *range(58)]}, {}, "1 missing value, the first at 2020-01-01 01:00:00"),
        ({"b": [1e200 * (-1) ** t for t in range(60)]}, {}, "too large to compute with"),
        ({}, {"columns": ("a", "c")}, "has no column 'c'"),
        ({"c": ["text"] * 60}, {"columns": ("c",)}, "is not numeric"),
        ({}, {"split": "ett_hourly"}, "needs 14400"),
    ],
)
def test_unusable_series_are_refused_in_one_line(changes: dict, source: dict, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, 60, **changes)
    with pytest.raises(InputError, match=message) as refusal:
        load_series(SeriesSource(path, **source))
    assert "\n" not in str(refusal.value)


def test_a_series_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    series = load_series(SeriesSource(written(tmp_path, 60)))
    with pytest.raises(InputError, match=r"its validation part has .* choose shorter horizons"):
        series.starts("validation", 20, 10)


def test_known_series_can_be_loaded() -> None:
    demand = load_series(SeriesSource("vic_elec", limit=2000))
    assert demand.values.shape == (2000, 2)
    assert str(demand.time) == "2011-12-31 13:00:00 to 2012-02-11 04:30:00 by 'Time', step 30 minutes"
    assert load_series(SeriesSource("epf_fr")).columns == ("y", "gen_forecast", "system_load")
    with pytest.raises(InputError, match="did you mean 'vic_elec'"):
        load_series(SeriesSource("vic_elek"))


@pytest.mark.parametrize(
    ("name", "file", "options"),
    [
        ("gafa_stock", "fpp3/gafa_stock.csv", {"columns": ("Close",), "fill": "forward"}),
        ("us_employment", "fpppy/us_employment.csv", {"columns": EMPLOYMENT}),
        ("us_gasoline", "fpppy/us_gasoline.csv", {}),
        ("bank_calls", "fpp3/bank_calls.csv", {"time": ("none",)}),
    ],
)
def test_a_known_series_is_its_file_read_with_its_options(name: str, file: str, options: dict) -> None:
    (folder,) = find_spec("tsdata").submodule_search_locations
    known, read = load_series(SeriesSource(name)), load_series(SeriesSource(str(Path(folder, file)), **options))
    assert known.fingerprint == read.fingerprint
    assert set(known.notes) <= set(read.notes)


def test_a_known_series_can_be_cut_and_its_columns_chosen() -> None:
    assert load_series(SeriesSource("pedestrian", limit=100)).columns == ("Count",)
    assert load_series(SeriesSource("us_employment", columns=("Government",))).columns == ("Government",)
    assert load_series(SeriesSource("gafa_stock", columns=("Open", "Volume"))).values.shape[1] == 8


def test_a_split_by_months_knows_its_step(tmp_path: Path) -> None:
    dates = [datetime(2000, 1, 1) + timedelta(days=day) for day in range(14_400)]
    rows = [f"{date:%Y-%m-%d},{np.sin(number)}" for number, date in enumerate(dates)]
    file = tmp_path / "ETTh1.csv"
    file.write_text("\n".join(["date,a", *rows]) + "\n")
    assert (
        "questioned: the split by months assumes a step of 1 hour, but it is 1 day"
        in load_series(SeriesSource(str(file))).notes
    )


@pytest.mark.parametrize("row", [10, 95])
def test_a_value_far_beyond_the_others_is_questioned(row: int, tmp_path: Path) -> None:
    values = np.sin(np.arange(100.0))
    values[row] = 5000.0
    series = load_series(SeriesSource(written(tmp_path, 100, a=values.tolist())))
    (note,) = series.notes
    assert note.startswith(
        "questioned: 1 value implausibly far from the training part, such as 5000 of 'a' at 2020-01-"
    )


def test_the_digits_of_a_well_formed_file_are_those_of_its_cells(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(200, 2)) * np.exp(generator.normal(size=(200, 2)) * 20)
    series = load_series(SeriesSource(written(tmp_path, 200, a=values[:, 0].tolist(), b=values[:, 1].tolist())))
    mean, deviation = values[:140].mean(axis=0), values[:140].std(axis=0)
    np.testing.assert_array_equal(series.values, ((values - mean) / deviation).astype(np.float32))
