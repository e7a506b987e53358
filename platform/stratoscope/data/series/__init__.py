"""Multivariate time series: reading, times, repair, splitting, standardisation, and windows."""

from stratoscope.data.series.loading import Series, SeriesSplit, TimeAxis, load_series
from stratoscope.data.series.source import (
    KNOWN_SERIES,
    DateOrder,
    DecimalMark,
    Delimiter,
    Fill,
    Header,
    SeriesSource,
    SplitRule,
)

__all__ = [
    "KNOWN_SERIES",
    "DateOrder",
    "DecimalMark",
    "Delimiter",
    "Fill",
    "Header",
    "Series",
    "SeriesSource",
    "SeriesSplit",
    "SplitRule",
    "TimeAxis",
    "load_series",
]
