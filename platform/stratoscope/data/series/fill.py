"""Missing values: refused, or filled from their neighbours."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stratoscope.data.series.arrange import REPAIR, Frame
from stratoscope.data.series.source import Fill, Reading, clip, counted

LARGE_SHARE = 0.2
"""Share of filled values of a column above which a note questions it (ours)."""


def fill_values(frame: Frame, reading: Reading) -> Frame:
    """Return a frame without missing values.

    `interpolate` fills a value linearly between its neighbours in time, `forward` with the last known one.

    Raises:
        InputError: values are missing, and `series.fill` is none or they have no neighbour to be filled from.
    """
    missing = np.isnan(frame.values)
    if not missing.any():
        return frame
    rule = reading.source.fill
    if rule == "none":
        raise _missing_refusal(frame, missing, reading)
    columns = [
        _filled(frame, number, rule, reading) if missing[:, number].any() else frame.values[:, number]
        for number in range(len(frame.columns))
    ]
    _note_shares(frame, missing, reading)
    return replace(frame, values=np.stack(columns, axis=1))


def _missing_refusal(frame: Frame, missing: NDArray[np.bool_], reading: Reading) -> Exception:
    number = int(missing.any(axis=0).argmax())
    name = frame.columns[number]
    rows = np.flatnonzero(missing[:, number])
    cell = reading.missing_cells.get(name)
    such = f", such as {cell}" if cell else ""
    others = int(missing.any(axis=0).sum()) - 1
    more = f", and {others:,} other columns have some" if others else ""
    return reading.refusal(
        f"column {clip(name)!r} has {counted(len(rows), 'missing value')}, the first at {frame.places[rows[0]]}{such}"
        f"{more}; {REPAIR} fills them, or choose other columns with series.columns"
    )


def _filled(frame: Frame, number: int, rule: Fill, reading: Reading) -> NDArray[np.float64]:
    values = frame.values[:, number]
    known = np.flatnonzero(~np.isnan(values))
    ends = [0, len(values) - 1] if rule == "interpolate" else [0]
    for row in ends:
        if np.isnan(values[row]):
            raise reading.refusal(
                f"column {clip(frame.columns[number])!r} has no value at {frame.places[row]}, and series.fill {rule} "
                f"has none to fill it from; {'cut the end off, with series.limit' if row else 'cut the start off'}, or "
                "choose other columns with series.columns"
            )
    rows = np.arange(len(values))
    if rule == "interpolate":
        return np.interp(rows, known, values[known])
    return np.asarray(values[known[np.searchsorted(known, rows, side="right") - 1]])


def _note_shares(frame: Frame, missing: NDArray[np.bool_], reading: Reading) -> None:
    share = missing.mean()
    reading.note(f"{counted(int(missing.sum()), 'value')} ({share:.1%}) filled (series.fill {reading.source.fill})")
    worst = int(missing.mean(axis=0).argmax())
    largest = missing[:, worst].mean()
    if largest > LARGE_SHARE:
        reading.note(
            f"questioned: {largest:.0%} of the values of {clip(frame.columns[worst])!r} are filled; its errors say "
            "little about the series"
        )
