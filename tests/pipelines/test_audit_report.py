"""The page of a night."""

from stratoscope.pipelines.audit.report import _trend


def test_nights_stand_in_their_order_whatever_is_missing() -> None:
    def line(*nights: str) -> list[dict[str, object]]:
        return [{"night": night, "value": 1.0} for night in nights]

    lines = {("a", "error"): line("1", "3"), ("b", "error"): line("1", "2", "3")}
    axis = _trend("Errors", lines, ["1", "2", "3"]).layout.xaxis
    assert (axis.categoryorder, list(axis.categoryarray)) == ("array", ["1", "2", "3"])
