"""Progress of long work: a bar in a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_INTERVAL_S = 10.0


class Meter:
    """Counts units of work and measures their rate.

    Args:
        total: number of units.
        done: number of units that an earlier start finished.
        unit: plural noun for the units, such as 'prompts'.
        size: plural noun for what the size of a unit counts, such as 'tokens'.
    """

    def __init__(self, total: int, done: int, unit: str, size: str) -> None:
        self.total, self.done, self._initial, self._unit, self._size = total, done, done, unit, size
        self._amount = 0.0
        self._start: float | None = None

    def start(self) -> None:
        """Start the clock; rates count from here."""
        self._start = time.monotonic()

    def add(self, units: int, amount: float) -> None:
        """Count finished units and their size."""
        self.done += units
        self._amount += amount

    @property
    def units_per_second(self) -> float:
        """Units per second since the start."""
        return (self.done - self._initial) / self._seconds

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._start, 1e-9) if self._start is not None else float("inf")

    @property
    def state(self) -> str:
        """Number of finished units and of all units, as text."""
        return f"{self.done}/{self.total} {self._unit}"

    @property
    def rates(self) -> str:
        """Units and their size per second since the start, as text."""
        units = _rate(self.units_per_second, self._unit)
        return units if self._size == self._unit else f"{units}, {self._amount / self._seconds:,.0f} {self._size}/s"


def _rate(per_second: float, unit: str) -> str:
    """Return a rate as text, per minute if it is below one per second."""
    return f"{per_second:,.1f} {unit}/s" if per_second >= 1 else f"{per_second * 60:,.1f} {unit}/min"


@contextmanager
def progress(meter: Meter, title: str, console: Console) -> Iterator["Reporter"]:
    """Show a meter while the block runs."""
    meter.start()
    if not console.is_terminal:
        yield PlainReporter(meter, title, console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rates]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield BarReporter(meter, title, bar)


class Reporter:
    """Shows a meter whenever it changes; this base class shows nothing."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def add(self, units: int, amount: float) -> None:
        """Count finished units and show the new state."""
        self._meter.add(units, amount)
        self._show()

    def _show(self) -> None:
        """Show the current state of the meter."""


class BarReporter(Reporter):
    """Shows a bar in a terminal."""

    def __init__(self, meter: Meter, title: str, bar: Progress) -> None:
        super().__init__(meter)
        self._bar = bar
        self._task = bar.add_task(title, total=meter.total, completed=meter.done, rates="starting")

    def _show(self) -> None:
        self._bar.update(self._task, completed=self._meter.done, rates=self._meter.rates)


class PlainReporter(Reporter):
    """Prints a line at most every `PLAIN_INTERVAL_S` seconds, and one at the end."""

    def __init__(self, meter: Meter, title: str, console: Console) -> None:
        super().__init__(meter)
        self._title, self._console, self._last = title, console, 0.0

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL_S or self._meter.done >= self._meter.total:
            self._last = now
            done = f"{self._meter.done}/{self._meter.total}"
            self._console.print(f"{self._title}: {done}, {self._meter.rates}", highlight=False, soft_wrap=True)
