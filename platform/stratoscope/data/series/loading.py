"""Loading a series: reading, arranging by time, splitting and standardisation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stratoscope.data.series.arrange import Cells, Frame, arrange
from stratoscope.data.series.clock import TimeColumn, find_time
from stratoscope.data.series.fill import fill_values
from stratoscope.data.series.long_form import SeriesIds, find_ids
from stratoscope.data.series.source import KNOWN_SERIES, Reading, SeriesSource, SplitRule, clip, counted, listed
from stratoscope.data.series.typed import COMPRESSIONS, read_table
from stratoscope.data.series.values import read_values
from stratoscope.digest import digest
from stratoscope.errors import InputError

Float32Array = NDArray[np.float32]
SeriesSplit = Literal["train", "validation", "test"]
HOURS_OF_MONTH = 30 * 24
TINY = 1e-9
"""Standard deviation relative to the largest value, below which a column is constant up to rounding."""
RATIO = (0.7, 0.1)
"""Shares of training and validation; the rest is the test part."""
FAR = 50.0
"""Standard deviations from the training mean beyond which a value is questioned (ours)."""
VERY_FAR = 1000.0
"""The same for distances from the training median, in standard deviations that quartiles imply (ours). A value in the
training part itself can raise the standard deviation, but not the quartiles."""
QUARTILES_OF_NORMAL = 1.349
"""Distance between the quartiles of a normal distribution, in standard deviations."""
STEPS = {"ett_hourly": "1 hour", "ett_quarterly": "15 minutes"}
"""Step that a split by months assumes."""


@dataclass(frozen=True)
class TimeAxis:
    """Times of a series."""

    column: str
    """Columns that state the time."""
    first: str
    """First time."""
    last: str
    """Last time."""
    step: str | None
    """Step between times in words; None for a single time."""

    def __str__(self) -> str:
        return f"{self.first} to {self.last} by {self.column}, step {self.step}"


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
    time: TimeAxis | None = None
    """Times of the rows; None where rows are in the order of the file."""
    notes: tuple[str, ...] = ()
    """Sentences on what was recognised, repaired, left out or questioned in the source."""

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
    """Read, validate, arrange by time, split and standardise a series.

    Raises:
        InputError: the source is unknown or unreadable; times are out of order, repeated, missing or uneven; a column
            is missing, not numeric, incomplete or constant.
    """
    known = KNOWN_SERIES.get(source.source)
    reading = Reading(source if known is None else known.complete(source))
    frame, axis = _read_frame(reading)
    bounds = _bounds(len(frame.values), source)
    _note_rows_after(bounds[2], frame, reading)
    training = frame.values[: bounds[0]]
    if not len(training):
        raise reading.refusal(f"{len(frame.values)} rows are too few to be split into training, validation and test")
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = training.mean(axis=0), training.std(axis=0)
    _check_constant(frame, training, deviation, reading)
    standardised = (frame.values - mean) / deviation
    _question_far_values(frame, standardised, bounds[0], reading)
    _question_step(axis, reading)
    return Series(
        _name(source),
        frame.columns,
        standardised.astype(np.float32),
        mean,
        deviation,
        bounds,
        digest({"columns": frame.columns, "bounds": bounds, "values": frame.values.tobytes().hex()}),
        axis,
        tuple(reading.notes),
    )


def _read_frame(reading: Reading) -> tuple[Frame, TimeAxis | None]:
    source = reading.source
    table = read_table(reading)
    time = find_time(table, reading)
    rest = table if time is None else table.without(set(time.names))
    # A known series in wide form may have columns of text, such as that of its filter.
    wide = source.source in KNOWN_SERIES and source.id is None
    ids = None if wide else find_ids(rest, time, reading)
    rest = rest if ids is None else rest.without({ids.column})
    names = source.columns
    chosen = () if ids is not None and set(names) <= set(ids.names) else names
    numbers = read_values(rest, chosen, reading, None if ids is None else ids.codes)
    frame = arrange(Cells.of(table, numbers, time, ids), reading)
    if ids is not None and names != chosen:
        frame = _selected(frame, ids.names, names)
    frame = fill_values(frame, reading)
    _note_form(time, ids, frame, reading)
    return frame, None if time is None else TimeAxis(time.name, frame.places[0], frame.places[-1], frame.step)


def _selected(frame: Frame, ids: list[str], names: tuple[str, ...]) -> Frame:
    """Return the chosen series of a frame in long form, which has a column of each series for each column of values."""
    numbers = [n for n in range(len(frame.columns)) if ids[n % len(ids)] in names]
    return Frame(tuple(frame.columns[n] for n in numbers), frame.values[:, numbers], frame.places, frame.step)


def _note_form(time: TimeColumn | None, ids: SeriesIds | None, frame: Frame, reading: Reading) -> None:
    if time is None:
        reading.note("no column states the time; rows are taken in the order of the source")
    if ids is not None:
        reading.note(
            f"the source is in long form; column {clip(ids.column)!r} names {len(ids.names):,} series, which give the "
            f"columns {listed(frame.columns)}"
        )


def _check_constant(
    frame: Frame, training: NDArray[np.float64], deviation: NDArray[np.float64], reading: Reading
) -> None:
    for name, spread, largest in zip(frame.columns, deviation, np.abs(training).max(axis=0), strict=True):
        if not np.isfinite(spread):
            raise reading.refusal(f"column {clip(name)!r} has values of up to {largest:.3g}, too large to compute with")
        if not spread > TINY * largest:
            raise reading.refusal(
                f"column {clip(name)!r} is constant in the training part; exclude it with series.columns"
            )


def _question_far_values(frame: Frame, standardised: NDArray[np.float64], training_rows: int, reading: Reading) -> None:
    """Note values that are implausibly far from the training part, and name the farthest one."""
    low, median, high = np.quantile(frame.values[:training_rows], (0.25, 0.5, 0.75), axis=0)
    spread = np.where(high > low, (high - low) / QUARTILES_OF_NORMAL, np.inf)
    distances = np.maximum(np.abs(standardised) / FAR, np.abs(frame.values - median) / spread / VERY_FAR)
    if distances.max() <= 1:
        return
    row, column = np.unravel_index(distances.argmax(), distances.shape)
    reading.note(
        f"questioned: {counted(int((distances > 1).sum()), 'value')} implausibly far from the training part, such as "
        f"{frame.values[row, column]:g} of {clip(frame.columns[column])!r} at {frame.places[row]}, whose median there "
        f"is {median[column]:g}; if this stands for a missing value, name it in series.missing"
    )


def _note_rows_after(end: int, frame: Frame, reading: Reading) -> None:
    """Note the rows that a split by months leaves out."""
    number = len(frame.values) - end
    if number:
        reading.note(f"the split by months takes 20 months; the last {counted(number, 'row')} are left out")


def _question_step(axis: TimeAxis | None, reading: Reading) -> None:
    """Note a split by months that assumes another step than that of the times."""
    assumed = STEPS.get(_split_rule(reading.source))
    if assumed is not None and axis is not None and axis.step != assumed:
        reading.note(f"questioned: the split by months assumes a step of {assumed}, but it is {axis.step}")


def _name(source: SeriesSource) -> str:
    """Return the name of a file without the suffixes of its kind and compression."""
    path = Path(source.source)
    return Path(path.stem).stem if path.suffix in COMPRESSIONS else path.stem


def _split_rule(source: SeriesSource) -> SplitRule:
    if source.split != "auto":
        return source.split
    name = _name(source)
    return "ett_hourly" if name.startswith("ETTh") else "ett_quarterly" if name.startswith("ETTm") else "ratio"


def _bounds(num_rows: int, source: SeriesSource) -> tuple[int, int, int]:
    rule = _split_rule(source)
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
