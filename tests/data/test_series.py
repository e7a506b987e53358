"""Series: reading, validation, splitting, standardisation, windows."""

from pathlib import Path

import numpy as np
import pytest

from stratoscope.data import SeriesSource, load_series
from stratoscope.errors import InputError


def written(folder: Path, num: int, name: str = "series.csv", **columns: list) -> str:
    time = np.arange(num)
    table = {"date": [f"d{t}" for t in time], "a": np.sin(time).tolist(), "b": (time * 2.0).tolist()} | columns
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
    assert len(series.starts("test", 96, 48)) == 2880 - 48 + 1


@pytest.mark.parametrize(
    ("changes", "source", "message"),
    [
        ({"b": [1.0] * 60}, {}, "'b' is constant"),
        ({"b": [98765.4] * 60}, {}, "'b' is constant"),
        ({"b": [1.0, "", *range(58)]}, {}, "1 missing values, the first in row 1"),
        ({}, {"columns": ("a", "c")}, "has no column 'c'"),
        ({}, {"columns": ("date",)}, "is not numeric"),
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
    assert load_series(SeriesSource("epf_fr")).columns == ("y", "gen_forecast", "system_load")
    with pytest.raises(InputError, match="did you mean 'vic_elec'"):
        load_series(SeriesSource("vic_elek"))
