"""What a run states about its series: in the manifest, on the page and in the terminal."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from stratoscope.data import Series
from stratoscope.pipelines.faithfulness.config import FaithfulnessConfig

MOST_COLUMNS = 12
"""Maximum number of columns of a series that are listed by name."""


@dataclass(frozen=True)
class SeriesFacts:
    """What a run states about a series. Runs of older versions have neither times nor notes."""

    rows: int
    """Number of rows."""
    columns: list[str]
    """Names of the columns."""
    windows: str
    """Numbers of test windows by horizon, in words."""
    time: dict[str, str | None] | None = None
    """Times: column, first, last and step, as in `TimeAxis`; None where rows are in the order of the file."""
    notes: list[str] = field(default_factory=list)
    """Notes on what was recognised, repaired, left out or looks questionable."""

    @classmethod
    def of(cls, series: Series, config: FaithfulnessConfig) -> "SeriesFacts":
        """Return the facts of a series."""
        numbers = {h: len(series.starts("test", config.lookback(h), h)) for h in config.grid.horizons}
        windows = ", ".join(f"{number:,} test windows of horizon {horizon}" for horizon, number in numbers.items())
        time = None if series.time is None else asdict(series.time)
        return cls(len(series.values), list(series.columns), windows, time, list(series.notes))

    @classmethod
    def recorded(cls, facts: Mapping[str, Any]) -> "SeriesFacts":
        """Return facts from a manifest."""
        return cls(**{each.name: facts[each.name] for each in fields(cls) if each.name in facts})

    @property
    def text(self) -> str:
        """Rows, columns, times and windows in words."""
        shown = ", ".join(self.columns[:MOST_COLUMNS])
        others = len(self.columns) - MOST_COLUMNS
        columns = f"{shown} and {others:,} others" if others > 0 else shown
        return f"{self.rows:,} rows, columns {columns}; {self.windows}{self._time_text}"

    @property
    def _time_text(self) -> str:
        if self.time is None:
            return ""
        step = f", step {self.time['step']}" if self.time["step"] else ""
        return f"; {self.time['first']} to {self.time['last']} by {self.time['column']}{step}"

    def lines(self, name: str) -> list[tuple[str, str]]:
        """Return pairs of a label and a text: one pair for the series, and one for each note."""
        return [(f"series {name}", self.text), *((f"note on {name}", note) for note in self.notes)]


def naive_error(series: Series) -> float:
    """Return the mean squared error, on the test part, of always forecasting the training mean, in standard units."""
    return float(np.mean(np.square(series.values[series.bounds[1] : series.bounds[2]], dtype=np.float64)))
