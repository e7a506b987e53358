"""The plot of values with intervals, which all reports share."""

import html
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratoscope.results import COLOURS, INK, MUTED, SYMBOLS, data_range, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

LABEL_WIDTH = 22
"""Maximum number of characters in a line of a row's label."""
MARK_HEIGHT, LEAST_MARK_HEIGHT, LINE_HEIGHT = 18, 14, 17
"""Height in pixels of a mark, of a mark on a crowded first screen, and of a line of a row's label."""
FIRST_SCREEN_ROWS = 260
"""Pixels that the rows of a plot may take on the first screen of a page."""
BEYOND, WITHIN = "beyond noise", "within noise"


@dataclass(frozen=True)
class IntervalMark:
    """A value with its interval in a plot of intervals."""

    row: str
    """Label of its row."""
    value: float
    low: float
    """Lower end of its interval; NaN if there is none."""
    high: float
    """Upper end of its interval; NaN if there is none."""
    is_finding: bool
    """Whether it is beyond noise; marks within noise are grey."""
    series: str = ""
    """Name of its series, such as a variant; empty if there is only one."""
    note: str = ""
    """Text that is shown when the pointer rests on the mark."""


@dataclass(frozen=True)
class _PlacedMark:
    mark: IntervalMark
    y: float


def interval_plot(
    marks: Sequence[IntervalMark],
    axis: str,
    *,
    title: str,
    form: str,
    reference: float,
    with_reference: bool = False,
    is_first: bool = False,
) -> "Figure":
    """Draw values with their intervals, with one row for each label. Values within noise are grey.

    Args:
        marks: the values, of which at least one is finite.
        axis: title of the horizontal axis, with its unit.
        title: what the figure shows, with the model.
        form: format of the values, such as '.0%'.
        reference: value at which a line is drawn, such as 0 for differences.
        with_reference: whether the axis includes the reference; otherwise it fits the data.
        is_first: whether it is on the first screen of a page, which has room for only a few rows: the surest ones.
    """
    from plotly.graph_objects import Figure

    marks = [mark for mark in marks if math.isfinite(mark.value)]
    labels = first_rows(marks, reference) if is_first else rows_of(marks)
    if len(labels) < len(rows_of(marks)):
        title += f" ({len(labels)} of {len(rows_of(marks))} rows, the surest; all are below)"
        marks = [mark for mark in marks if mark.row in labels]
    placed = _placed(marks, labels)
    figure = Figure(list(_traces(placed, form)))
    lines = [_lines(label) for label in labels]
    least = _least_height(marks)
    style(figure, html.escape(axis), "", title=html.escape(title), height=100 + max(40, 6 + least) * len(labels))
    figure.layout.meta = figure.layout.meta | {"least": 100 + least * len(labels)}
    wanted = [reference] if with_reference else []
    ends = data_range([*(m.low for m in marks), *(m.value for m in marks), *wanted],
                      [*(m.high for m in marks), *(m.value for m in marks), *wanted])  # fmt: skip
    figure.update_xaxes(range=ends, tickformat=form if form.endswith("%") else None)
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=["<br>".join(map(html.escape, own)) for own in lines],
        range=[len(labels) - 0.5, -0.5],
        zeroline=False,
    )
    if ends[0] <= reference <= ends[1]:
        figure.add_vline(x=reference, line={"color": INK, "dash": "dot", "width": 1})
    return figure


def rows_of(marks: Sequence[IntervalMark]) -> list[str]:
    """Return the labels of the rows of a plot, in order."""
    return list(dict.fromkeys(mark.row for mark in marks))


def first_rows(marks: Sequence[IntervalMark], reference: float) -> list[str]:
    """Return the labels of as many rows as the first screen of a page has room for, in order.

    They are the rows whose marks are furthest from the reference, relative to the length of their intervals.
    """
    labels = rows_of(marks)
    number = max(2, FIRST_SCREEN_ROWS // _least_height(marks))
    sureness = {label: max(_sureness(m, reference) for m in marks if m.row == label) for label in labels}
    surest = sorted(labels, key=lambda label: -sureness[label])[:number]
    return [label for label in labels if label in surest]


def _sureness(mark: IntervalMark, reference: float) -> float:
    length = mark.high - mark.low
    return abs(mark.value - reference) / length if math.isfinite(length) and length > 0 else 0.0


def _least_height(marks: Sequence[IntervalMark]) -> int:
    """Return the minimum height in pixels of a row for its marks and the lines of its label."""
    most = max(sum(mark.row == label for mark in marks) for label in rows_of(marks))
    return max(24, 6 + LEAST_MARK_HEIGHT * most, 4 + LINE_HEIGHT * max(len(_lines(mark.row)) for mark in marks))


def _lines(label: str) -> list[str]:
    return textwrap.wrap(label, LABEL_WIDTH) or [""]


def _placed(marks: Sequence[IntervalMark], labels: Sequence[str]) -> list[_PlacedMark]:
    """Place the marks of a row next to each other."""
    most = max(sum(mark.row == label for mark in marks) for label in labels)
    placed = []
    for index, label in enumerate(labels):
        own = [mark for mark in marks if mark.row == label]
        placed += [_PlacedMark(m, index + 0.7 * (n - (len(own) - 1) / 2) / most) for n, m in enumerate(own)]
    return placed


def _traces(placed: Sequence[_PlacedMark], form: str) -> Iterator["Scatter"]:
    """Yield up to two traces for each series: marks beyond noise and marks within noise."""
    series = list(dict.fromkeys(p.mark.series for p in placed))
    for index, name in enumerate(series):
        for is_finding in (True, False):
            own = [p for p in placed if (p.mark.series, p.mark.is_finding) == (name, is_finding)]
            if own:
                yield _trace(own, _trace_name(name, is_finding=is_finding), index, form)


def _trace_name(series: str, *, is_finding: bool) -> str:
    if not series:
        return BEYOND if is_finding else WITHIN
    return html.escape(series) if is_finding else f"{html.escape(series)}, {WITHIN}"


def _trace(placed: Sequence[_PlacedMark], name: str, index: int, form: str) -> "Scatter":
    from plotly.graph_objects import Scatter

    marks = [p.mark for p in placed]
    colour = COLOURS[index % len(COLOURS)] if marks[0].is_finding else MUTED
    return Scatter(
        x=[m.value for m in marks],
        y=[p.y for p in placed],
        mode="markers",
        name=name,
        marker={"color": colour, "symbol": SYMBOLS[index % len(SYMBOLS)], "size": 10},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [_length(m.value, m.high) for m in marks],
            "arrayminus": [_length(m.low, m.value) for m in marks],
            "thickness": 2,
            "width": 5,
        },
        text=[html.escape(m.note or m.row) for m in marks],
        customdata=[[m.low, m.high] for m in marks],
        hovertemplate=f"%{{text}}<br>%{{x:{form}}}, %{{customdata[0]:{form}}} to %{{customdata[1]:{form}}}"
        "<extra></extra>",
    )


def _length(start: float, end: float) -> float:
    """Return the length of one side of an error bar; 0 if the end is missing."""
    return max(0.0, end - start) if math.isfinite(end - start) else 0.0
