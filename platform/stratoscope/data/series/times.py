"""Times in text cells and in numbers: their formats and their values."""

import re
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.data.series.grid import find_grid
from stratoscope.data.series.source import Reading, clip

TimeKind = Literal["time", "counter"]
NOT_A_TIME = np.iinfo(np.int64).min
MICROSECONDS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 1e-3}
EPOCH_START, EPOCH_END = 1e8, 4.2e9
"""Seconds since 1970 that are taken for a time: 1973 to 2103."""
FIRST_YEAR, LAST_YEAR = 1700, 2200
DATES = {
    r"\d{4}-\d{1,2}-\d{1,2}": "%Y-%m-%d",
    r"\d{4}/\d{1,2}/\d{1,2}": "%Y/%m/%d",
    r"\d{4}\.\d{1,2}\.\d{1,2}": "%Y.%m.%d",
    r"(?:17|18|19|20|21)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])": "%Y%m%d",
    r"\d{4}-\d{1,2}": "%Y-%m",
    r"\d{4}/\d{1,2}": "%Y/%m",
    r"\d{4}-?[Qq][1-4]": "quarter",
    r"\d{1,2}[- ][A-Za-z]{3}[- ]\d{4}": "%d-%b-%Y",
    r"\d{1,2}[- ][A-Za-z]{3}[- ]\d{2}": "%d-%b-%y",
    r"\d{1,2}[- ][A-Za-z]{4,9}[- ]\d{4}": "%d-%B-%Y",
    r"[A-Za-z]{3}[- ]\d{1,2},?[- ]\d{4}": "%b-%d-%Y",
    r"[A-Za-z]{4,9}[- ]\d{1,2},?[- ]\d{4}": "%B-%d-%Y",
    r"[A-Za-z]{3}[- ]\d{4}": "%b-%Y",
    r"[A-Za-z]{3}[- ]\d{2}": "%b-%y",
    r"[A-Za-z]{4,9}[- ]\d{4}": "%B-%Y",
    **{rf"\d{{1,2}}{sign}\d{{1,2}}{sign}\d{{4}}": "day and month, %Y" for sign in ("/", r"\.", "-")},
    **{rf"\d{{1,2}}{sign}\d{{1,2}}{sign}\d{{2}}": "day and month, %y" for sign in ("/", r"\.", "-")},
}
"""Formats of dates by pattern; the separators next to the name of a month are written as '-'."""
CLOCKS = {
    r"\d{1,2}:\d{2}": "%H:%M",
    r"\d{1,2}:\d{2}:\d{2}": "%H:%M:%S",
    r"\d{1,2}:\d{2}:\d{2}[.,]\d{1,6}": "%H:%M:%S.%f",
    r"\d{1,2}:\d{2}:\d{2}[.,]\d{7,9}": "%H:%M:%S.nanoseconds",
    r"\d{1,2}:\d{2} ?[AaPp][Mm]": "%I:%M %p",
    r"\d{1,2}:\d{2}:\d{2} ?[AaPp][Mm]": "%I:%M:%S %p",
    r"\d{1,2} ?[AaPp][Mm]": "%I %p",
}
ZONES = {"": "", r" ?(?:[Zz]|UTC|GMT)": "utc", r" ?[+-]\d{2}:?\d{2}": "%z", r" ?[+-]\d{2}": "hours"}


class TimeError(ValueError):
    """A cell is not a time in the same form as the others.

    Args:
        row: number of the cell's row.
        problem: what is wrong with it.
    """

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


@dataclass(frozen=True)
class TimeForm:
    """Form of the times of a column."""

    date: str
    """Pattern of the date."""
    zoned: bool
    """Whether the times state their offset from UTC."""

    @property
    def date_format(self) -> str:
        """Format of the date."""
        return DATES[self.date]


@cache
def _forms() -> list[tuple[re.Pattern[str], TimeForm]]:
    """Return the pattern of each form with any time of day."""
    clock = rf"(?:(?:[ T]|, )(?:{'|'.join(CLOCKS)}))?"
    return [
        (re.compile(f"{date}{clock}{zone}"), TimeForm(date, bool(zone)))
        for date, zone in product(DATES, ("", f"(?:{'|'.join(filter(None, ZONES))})"))
    ]


def form_of(cell: str) -> TimeForm | None:
    """Return the form of a cell that is a date, or a date and a time of day."""
    return next((form for pattern, form in _forms() if pattern.fullmatch(cell)), None)


def is_clock(cell: str) -> bool:
    """Return whether a cell is a time of day."""
    return any(re.fullmatch(pattern, cell) for pattern in CLOCKS)


def read_times(name: str, texts: Any, form: TimeForm, reading: Reading) -> NDArray[np.int64]:
    """Return the times of a column of text in microseconds since 1970, in UTC where they state an offset.

    Args:
        name: name of the column.
        texts: the column as an Arrow array of text.
        form: form of the column's times.
        reading: what is said about the source.

    Raises:
        TimeError: a cell has another form.
        InputError: the order of day and month cannot be recognised.
    """
    if form.date_format.startswith("day and month"):
        return _read_ambiguous(name, texts, form, reading)
    return _read_as(texts, form, form.date_format)


def _read_ambiguous(name: str, texts: Any, form: TimeForm, reading: Reading) -> NDArray[np.int64]:
    year = form.date_format[-2:]
    orders = {"day_first": f"%d-%m-{year}", "month_first": f"%m-%d-{year}"}
    option = reading.source.dates
    chosen = option if option != "auto" else _date_order(name, texts, form, orders, reading)
    times = _read_as(texts, form, orders[chosen])
    reading.note(f"dates in {name!r} are read {chosen.replace('_', ' ')}")
    return times


def _date_order(
    name: str, texts: Any, form: TimeForm, orders: dict[str, str], reading: Reading
) -> Literal["day_first", "month_first"]:
    parts = pc.extract_regex(texts, r"^(?P<a>\d{1,2})\D(?P<b>\d{1,2})\D")
    first, second = (pc.cast(pc.struct_field(parts, part), pa.int64()).to_numpy(zero_copy_only=False) for part in "ab")
    if np.nanmax(first, initial=0) > 12:
        return "day_first"
    if np.nanmax(second, initial=0) > 12:
        return "month_first"
    regular = [order for order, date_format in orders.items() if _is_regular(_read_as(texts, form, date_format))]
    if len(regular) == 1:
        return "day_first" if regular == ["day_first"] else "month_first"
    if r"\." in form.date:
        return "day_first"
    raise reading.refusal(
        f"the dates in column {name!r}, such as {texts[0].as_py()!r}, can be read day first or month first; set "
        "series.dates to day_first or month_first"
    )


def _is_regular(times: NDArray[np.int64]) -> bool:
    grid = find_grid(np.unique(times), "time")
    return grid is not None and grid.is_complete


def _read_as(texts: Any, form: TimeForm, date_format: str) -> NDArray[np.int64]:
    """Read times with one date format; times of day may vary in form, for example where midnight is left out."""
    times = np.full(len(texts), NOT_A_TIME)
    for (clock, clock_format), (zone, zone_format) in product({"": "", **CLOCKS}.items(), ZONES.items()):
        if form.zoned != bool(zone):
            continue
        between = "(?:[ T]|, )" if clock else ""
        rows = np.asarray(
            pc.fill_null(pc.match_substring_regex(texts, f"^{form.date}{between}{clock}{zone}$"), False).to_numpy(
                zero_copy_only=False
            )
        )
        if rows.any():
            cells = texts.filter(pa.array(rows))
            times[rows] = _convert(cells, date_format, clock_format, zone_format)
    wrong = np.flatnonzero(times == NOT_A_TIME)
    if len(wrong):
        cell = texts[int(wrong[0])].as_py()
        raise TimeError(int(wrong[0]), f"{clip(cell or '')!r} is not readable as a time like the others")
    return times


def _convert(cells: Any, date_format: str, clock_format: str, zone_format: str) -> NDArray[np.int64]:
    """Return cells of one form as microseconds; NOT_A_TIME where there is no such date."""
    import pandas as pd

    if zone_format == "utc":
        cells = pc.replace_substring_regex(cells, r" ?([Zz]|UTC|GMT)$", "")
    if zone_format == "hours":
        cells = pc.binary_join_element_wise(cells, "00", "")
    if clock_format.endswith("nanoseconds"):
        cells, clock_format = pc.replace_substring_regex(cells, r"([.,]\d{6})\d*", r"\1"), "%H:%M:%S.%f"
    if date_format == "quarter":
        cells, date_format = _without_quarters(cells), "%Y-%m"
    date, clock = _split(cells, bool(clock_format))
    text = pc.binary_join_element_wise(date, clock, " ")
    full = f"{date_format} {clock_format}{'%z' if zone_format in ('%z', 'hours') else ''}"
    times = pd.to_datetime(pd.Series(text.to_pylist(), dtype=object), format=full, errors="coerce", utc=True)
    return np.asarray(times.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64))


def _split(cells: Any, has_clock: bool) -> tuple[Any, Any]:
    """Return dates, with the separators used in the formats, and times of day."""
    if not has_clock:
        return _with_separators(cells), pa.array([""] * len(cells))
    parts = pc.extract_regex(cells, r"^(?P<date>.*?)(?:,? |T)(?P<clock>\d{1,2}(?::\d{2}.*| ?[AaPp][Mm].*))$")
    clock = pc.replace_substring(pc.struct_field(parts, "clock"), ",", ".")
    clock = pc.replace_substring_regex(clock, r"(\d) ?([AaPp][Mm])", r"\1 \2")
    clock = pc.replace_substring_regex(clock, r" ([+-])", r"\1")
    return _with_separators(pc.struct_field(parts, "date")), clock


def _with_separators(dates: Any) -> Any:
    named = pc.replace_substring_regex(dates, r",? ", "-")
    return pc.replace_substring_regex(named, r"^(\d{1,2})[/.](\d{1,2})[/.](\d{2,4})$", r"\1-\2-\3")


def _without_quarters(cells: Any) -> Any:
    for quarter, month in zip("1234", ("01", "04", "07", "10"), strict=True):
        cells = pc.replace_substring_regex(cells, rf"^(\d{{4}})-?[Qq]{quarter}$", rf"\1-{month}")
    return cells


def read_number_times(values: NDArray[np.float64]) -> tuple[NDArray[Any], TimeKind] | None:
    """Return numbers as times: calendar numbers such as 20200131, (fractions of) seconds since 1970, or a counter.

    Args:
        values: numbers, shape (N,); none is NaN.

    Returns:
        Microseconds since 1970 and 'time', or the numbers and 'counter'; None if they cannot be times.
    """
    whole = bool((values == np.floor(values)).all())
    calendar = _calendar_times(values) if whole else None
    if calendar is not None:
        return calendar, "time"
    for scale in MICROSECONDS.values():
        seconds = values * scale / 1e6
        if ((seconds > EPOCH_START) & (seconds < EPOCH_END)).all():
            return np.round(values * scale).astype(np.int64), "time"
    steps = np.diff(np.unique(values))
    if whole or (len(steps) and np.allclose(steps, steps[0], rtol=1e-3)):
        return values, "counter"
    return None


def _calendar_times(values: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Return numbers such as 20200131, 2020013112 and 202001 as times."""
    for digits, date_format in ((14, "%Y%m%d%H%M%S"), (12, "%Y%m%d%H%M"), (10, "%Y%m%d%H"), (8, "%Y%m%d"), (6, "%Y%m")):
        low, high = FIRST_YEAR * 10 ** (digits - 4), LAST_YEAR * 10 ** (digits - 4)
        if ((values > low) & (values < high)).all():
            return _converted([f"{value:.0f}" for value in values], date_format)
    return None


def _converted(cells: list[str], date_format: str) -> NDArray[np.int64] | None:
    import pandas as pd

    times = pd.to_datetime(pd.Series(cells, dtype=object), format=date_format, errors="coerce")
    if times.isna().any():
        return None
    return np.asarray(times.to_numpy().astype("datetime64[us]").astype(np.int64))


def read_years(values: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Return whole numbers between 1700 and 2200 as the starts of years; None if there are other numbers."""
    if not ((values >= FIRST_YEAR) & (values <= LAST_YEAR) & (values == np.floor(values))).all():
        return None
    years = values.astype(np.int64) - 1970
    return years.astype("datetime64[Y]").astype("datetime64[us]").astype(np.int64)
