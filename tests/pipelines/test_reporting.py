"""Tables of a page from typed rows."""

from dataclasses import dataclass

import pytest

from stratoscope.pipelines.reporting.formatting import interval_text, number_text, tap_notes
from stratoscope.pipelines.reporting.sections import (
    PageColumn,
    field_column,
    interval_column,
    page_table,
)
from stratoscope.results import Manifest, Page, PageSection, TableCell, TableRow, render


@dataclass(frozen=True)
class ScoreRow(TableRow):
    """A score."""

    layer: int
    """Number of the layer, from 0"""
    score: float | None
    """Value of the metric."""
    ci_low: float | None
    """Lower end of the interval."""
    ci_high: float | None
    """Upper end of the interval."""


ROWS = [
    ScoreRow(layer=3, score=0.1234, ci_low=0.1, ci_high=0.2),
    ScoreRow(layer=4, score=float("nan"), ci_low=None, ci_high=None),
]


def test_missing_numbers_are_empty_cells() -> None:
    assert [number_text(value, ".2f") for value in (1.005, None, float("nan"))] == ["1.00", "", ""]
    assert interval_text(0.1, 0.25, ".1f") == "0.1 to 0.2"
    assert interval_text(None, 1.0, ".1f") == interval_text(0.0, float("nan"), ".1f") == ""


def test_a_table_is_built_from_columns() -> None:
    marked = PageColumn[ScoreRow]("mark", lambda row: TableCell("low", tone="bad") if row.layer == 3 else "")
    columns = [
        field_column(ScoreRow, "layer"),
        field_column(ScoreRow, "score", ".2f"),
        interval_column("95 %", ".1f"),
        marked,
    ]
    table = page_table(ROWS, columns, "filter")
    assert list(table.header) == ["layer", "score", "95 %", "mark"]
    assert [list(row) for row in table.rows] == [
        ["3", "0.12", "0.1 to 0.2", TableCell("low", tone="bad")],
        ["4", "", "", ""],
    ]
    assert table.filtered == "filter"


def test_columns_are_explained_by_their_docstrings() -> None:
    columns = [field_column(ScoreRow, "layer"), field_column(ScoreRow, "ci_low", header="low"), PageColumn("x", str)]
    table = page_table(ROWS, columns)
    assert list(table.meanings) == ["Number of the layer, from 0", "Lower end of the interval.", ""]
    page = render(Page("Scores", "", [PageSection("Table", tables=[table])])).decode()
    assert (
        '<th scope="col" title="Lower end of the interval."><button type="button" class="sort">low</button></th>'
        in page
    )
    assert '<th scope="col"><button type="button" class="sort">x</button></th>' in page
    with pytest.raises(KeyError):
        field_column(ScoreRow, "nosuch")


@pytest.mark.parametrize(("dtype", "number"), [("bfloat16", 2), ("float32", 1)])
def test_taps_that_cannot_be_read_or_that_rounding_spoils_are_named(dtype: str, number: int) -> None:
    facts = {"withdrawn": {"mlp": "no sum"}, "by_difference": [0, 1], "dtype": dtype}
    notes = tap_notes(Manifest("score", "one", {}, 0, facts=facts))
    assert notes[0] == "tap mlp was not read: no sum"
    assert len(notes) == number
    assert all("update of 2 layers is output minus input" in note for note in notes[1:])
