"""Small files of series for tests: two noisy waves by the hour."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

NUM = 60
START = datetime(2020, 1, 1)
HOURS = [START + timedelta(hours=hour) for hour in range(NUM)]
_NOISE = np.random.default_rng(0).normal(size=(NUM, 2))
X, Y = ([round(float(v), 4) for v in 10 + np.sin(np.arange(NUM) / 4 + shift) + _NOISE[:, shift]] for shift in (0, 1))


def lines(times: list[str] | None = None, x: list | None = None, y: list | None = None) -> list[str]:
    """Return the rows of a file: time, x, y, separated by commas."""
    columns = [times or [str(hour) for hour in HOURS], X if x is None else x, Y if y is None else y]
    return [",".join(map(str, row)) for row in zip(*columns, strict=False)]


def changed(values: list, **changes: object) -> list:
    """Return a copy of a column with cells replaced: `r7="error"` replaces that of row 7."""
    return [changes.get(f"r{row}", value) for row, value in enumerate(values)]


def write(folder: Path, rows: list[str], header: str | None = "date,x,y", name: str = "waves.csv") -> str:
    """Write a file and return its path."""
    path = folder / name
    path.write_text("\n".join([*([] if header is None else [header]), *rows]) + "\n", encoding="utf-8")
    return str(path)


def times(form: Callable[[datetime], str] | str, start: datetime = START) -> list[str]:
    """Return the hours in a format of strftime, or as a function writes them."""
    hours = [hour - START + start for hour in HOURS]
    return [hour.strftime(form) if isinstance(form, str) else form(hour) for hour in hours]
