"""The page of a night."""

from types import SimpleNamespace

from stratoscope.pipelines.audit.report import _layers_section, _trend
from stratoscope.scoring.drift import Drift, LayerShift


def test_nights_stand_in_their_order_whatever_is_missing() -> None:
    lines = {("a", "error"): dict.fromkeys("13", 1.0), ("b", "error"): dict.fromkeys("123", 1.0)}
    axis = _trend("Errors", "error", lines, ["1", "2", "3"]).layout.xaxis
    assert (axis.categoryorder, list(axis.categoryarray)) == ("array", ["1", "2", "3"])


def test_layers_that_could_not_be_shown_to_move_are_not_said_to_stay() -> None:
    shifts = (LayerShift("update", 0, 0.5, 0.1, 0.9, 0.0078, False),)
    few, enough = (Drift("same prompts", n, shifts, {}, level=0.001, least_p=2 / 2**n) for n in (8, 40))
    (section,) = _layers_section([SimpleNamespace(subject="a", drift=few)])
    assert section.paragraphs[1:] == [
        "a: no difference could be shown with 8 prompts (the least possible p is 0.0078)."
    ]
    (section,) = _layers_section([SimpleNamespace(subject="a", drift=enough)])
    assert section.paragraphs[1:] == ["No layer moved."]
