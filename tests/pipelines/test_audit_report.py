"""The page of a night."""

from stratoscope.pipelines.audit.report import _trend


def test_nights_stand_in_their_order_whatever_is_missing() -> None:
    lines = {("a", "error"): dict.fromkeys("13", 1.0), ("b", "error"): dict.fromkeys("123", 1.0)}
    axis = _trend("Errors", "error", lines, ["1", "2", "3"]).layout.xaxis
    assert (axis.categoryorder, list(axis.categoryarray)) == ("array", ["1", "2", "3"])
