"""The grid of evenly spaced times on which times lie, its step, and the times that are missing from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DAY = 86_400_000_000
"""Microseconds of a day."""
UNITS = {"day": DAY, "hour": DAY // 24, "minute": DAY // 1440, "second": 1_000_000, "millisecond": 1_000}
TOLERANCE = 1e-3
"""Largest deviation of a number from its place on the grid, relative to the step."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Evenly spaced times."""

    step: str
    """Step in words, such as '1 hour'."""
    positions: NDArray[np.int64]
    """Number of steps of each time from the first one, shape (N,)."""

    @property
    def num_missing(self) -> int:
        """Number of times of the grid that are missing."""
        return int(self.positions[-1] + 1 - len(self.positions))

    @property
    def is_complete(self) -> bool:
        """Whether no time is missing."""
        return self.num_missing == 0

    @property
    def first_gap(self) -> int:
        """Index of the last time before the first missing one."""
        return int(np.flatnonzero(np.diff(self.positions) > 1)[0])


def find_grid(times: NDArray[Any], kind: Literal["time", "counter"]) -> Grid | None:
    """Return the grid with the fewest missing times.

    Steps are of equal length, months, or business days (Monday to Friday).

    Args:
        times: distinct times in order, shape (N,): microseconds since 1970, or numbers of a counter.
        kind: kind of the times.

    Returns:
        None if the times lie on no grid, or are fewer than two.
    """
    if len(times) < 2:
        return None
    grids = [grid for grid in (_even(times, kind), *_calendar(times, kind)) if grid is not None]
    return min(grids, key=lambda grid: grid.num_missing, default=None)


def _even(times: NDArray[Any], kind: str) -> Grid | None:
    steps = np.diff(times)
    step = _most_common(np.round(steps, 9) if kind == "counter" else steps)
    places = (times - times[0]) / step
    positions = np.round(places).astype(np.int64)
    allowed = TOLERANCE if kind == "counter" else 0.0
    if (np.abs(places - positions) > allowed).any() or (np.diff(positions) < 1).any():
        return None
    return Grid(duration_text(int(step)) if kind == "time" else f"{step:g}", positions)


def _calendar(times: NDArray[Any], kind: str) -> Iterator[Grid | None]:
    if kind == "time":
        moments = times.astype("datetime64[us]")
        yield _months(moments)
        yield _business_days(moments)


def _months(moments: NDArray[np.datetime64]) -> Grid | None:
    """Return the grid of times on one day of the month, or on its last day."""
    months = moments.astype("datetime64[M]")
    within = moments - months.astype("datetime64[us]")
    lengths = (months + 1).astype("datetime64[us]") - months.astype("datetime64[us]")
    # In a short month, the last day stands for a day that the month does not have.
    expected = np.minimum(within.max(), lengths - np.timedelta64(1, "D") + within.max() % np.timedelta64(1, "D"))
    if (within != expected).any():
        return None
    numbers = months.astype(np.int64)
    step = int(_most_common(np.diff(numbers)))
    if step < 1 or ((numbers - numbers[0]) % step).any() or (np.diff(numbers) < 1).any():
        return None
    text = f"{step} month{'s' * (step > 1)}" if step % 12 else f"{step // 12} year{'s' * (step > 12)}"
    return Grid(text, (numbers - numbers[0]) // step)


def _business_days(moments: NDArray[np.datetime64]) -> Grid | None:
    days = moments.astype("datetime64[D]")
    within = moments - days
    if (within != within[0]).any() or not np.is_busday(days).all() or _most_common(np.diff(days).astype(int)) != 1:
        return None
    if (days[-1] - days[0]).astype(int) < 7:
        return None
    return Grid("1 business day", np.asarray(np.busday_count(days[0], days), dtype=np.int64))


def _most_common(values: NDArray[Any]) -> Any:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts.argmax()]


def duration_text(microseconds: int) -> str:
    """Return a length of time in the largest unit of which it is a multiple, such as '15 minutes'."""
    for name, size in UNITS.items():
        if microseconds % size == 0:
            number = microseconds // size
            return f"{number:,} {name}{'s' * (number > 1)}"
    return f"{microseconds:,} microseconds"


def time_text(time: Any, kind: Literal["time", "counter"]) -> str:
    """Return a time for readers: a date and a time of day, or the number of a counter."""
    if kind == "counter":
        return f"{time:g}" if time != int(time) else f"{int(time)}"
    text = str(np.datetime64(int(time), "us")).replace("T", " ").removesuffix(".000000")
    return text.removesuffix(" 00:00:00")
