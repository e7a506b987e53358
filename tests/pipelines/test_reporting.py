"""Tables of a page from typed rows."""

from dataclasses import dataclass

import pytest

from stratoscope.pipelines.reporting.figures import FIRST_SCREEN_ROWS, IntervalMark, interval_plot
from stratoscope.pipelines.reporting.formatting import (
    MAX_LABEL,
    count_text,
    interval_text,
    list_text,
    memory_text,
    model_label,
    number_text,
    tap_notes,
)
from stratoscope.pipelines.reporting.sections import (
    PageColumn,
    field_column,
    interval_column,
    page_table,
)
from stratoscope.results import COLOURS, MUTED, Manifest, Page, PageSection, TableCell, TableRow, integer_step, render


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


@pytest.mark.parametrize(
    ("host", "gpu", "text"),
    [
        (None, None, ""),
        (None, 10**9, ""),
        (2 * 10**9, None, "2.00 GB"),
        (2 * 10**9, 0, "2.00 GB"),
        (2 * 10**9, 4 * 10**9, "2.00 GB on the host, 4.00 GB on GPUs"),
    ],
)
def test_memory_of_gpus_is_named_where_there_is_any(host: int | None, gpu: int | None, text: str) -> None:
    assert memory_text(host, gpu) == text


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


def test_counts_lists_and_names_read_as_english() -> None:
    assert [count_text(n, "layer") for n in (1, 6, 12, 13)] == ["one layer", "six layers", "twelve layers", "13 layers"]
    lists = [list_text(names) for names in ([], ["a"], ["a", "b"], list("abc"), list("abcde"))]
    assert lists == ["", "a", "a and b", "a, b and c", "a, b, c and 2 more"]
    assert [model_label(source) for source in ("owner/model", "/models/base/", "x.gguf")] == ["model", "base", "x.gguf"]
    assert len(model_label("owner/" + "long" * 20)) == MAX_LABEL


@pytest.mark.parametrize(
    ("num_series", "name", "expected"), [(1, "set", 10), (1, "a data set with a long name", 6), (4, "set", 4)]
)
def test_the_first_screen_shows_the_surest_rows_of_many(num_series: int, name: str, expected: int) -> None:
    marks = [
        IntervalMark(f"{name} {row}", 0.1 * row, 0.1 * row - 0.5, 0.1 * row + 0.5, True, str(series))
        for row in range(20)
        for series in range(num_series)
    ]
    figure = interval_plot(marks, "difference", title="m", form="+.2f", reference=0.0, is_first=True)
    labels = [label.replace("<br>", " ") for label in figure.layout.yaxis.ticktext]
    assert labels == [f"{name} {row}" for row in range(20 - expected, 20)]
    assert figure.layout.meta["title"] == f"m ({expected} of 20 rows, the surest; all are below)"
    assert 100 < figure.layout.meta["least"] <= 100 + FIRST_SCREEN_ROWS
    everything = interval_plot(marks, "difference", title="m", form="+.2f", reference=0.0)
    assert (len(everything.layout.yaxis.ticktext), everything.layout.meta["title"]) == (20, "m")


def test_an_interval_plot_is_grey_within_noise_and_leaves_out_what_is_not_finite() -> None:
    marks = [
        IntervalMark("a < b", 0.3, 0.1, 0.5, is_finding=True),
        IntervalMark("a < b", 0.1, -0.1, 0.3, is_finding=False),
        IntervalMark("c", 0.2, float("nan"), float("inf"), is_finding=False),
        IntervalMark("d", float("nan"), 0.0, 0.0, is_finding=True),
    ]
    figure = interval_plot(marks, "difference", title="m", form="+.2f", reference=1.0)
    assert [(t.name, t.marker.color) for t in figure.data] == [("beyond noise", COLOURS[0]), ("within noise", MUTED)]
    assert list(figure.layout.yaxis.ticktext) == ["a &lt; b", "c"]
    assert list(figure.data[1].error_x.array) == pytest.approx([0.2, 0.0])
    assert list(figure.layout.xaxis.range) == pytest.approx([-0.13, 0.53])
    assert not figure.layout.shapes
    wide = interval_plot(marks, "difference", title="m", form="+.2f", reference=1.0, with_reference=True)
    assert len(wide.layout.shapes) == 1
    assert wide.layout.xaxis.range[1] > 1


@pytest.mark.parametrize(("span", "step"), [(1, 1), (10, 1), (11, 2), (21, 5), (60, 10), (1000, 100), (1001, 200)])
def test_steps_of_whole_numbers_are_round(span: int, step: int) -> None:
    assert integer_step(span) == step
