"""The page of a night."""

from types import SimpleNamespace

from stratoscope.pipelines.audit.report import _cost_section, _layers_section, _trend
from stratoscope.pipelines.audit.steps import StepResult
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


def test_the_cost_of_each_stage_and_of_each_model_is_shown() -> None:
    results = [
        StepResult("done", "runs/x", 40.0, None, cpu_seconds=72.0, num_bytes=424_800_000),
        StepResult("reused", "runs/y", 2.0, None, cpu_seconds=7.2, num_bytes=0),
        StepResult("done", "runs/z", 3.0, None),  # an earlier version has run it
    ]
    places = [("a", "search"), ("a", "score"), ("b", "score")]
    assessments = [
        SimpleNamespace(subject=subject, stage=stage, result=result, gpu_hours=0.0, manifest=None)
        for (subject, stage), result in zip(places, results, strict=True)
    ]
    (table,) = _cost_section(assessments).tables
    assert table.header[3:7] == ["seconds", "CPU hours", "GPU hours", "size of the run"]
    assert [[row[0], row[1], *row[3:7]] for row in table.rows] == [
        ["a", "search", "40", "0.020", "", "424.8 MB"],
        ["a", "score", "2", "0.002", "", "0.0 MB"],
        ["b", "score", "3", "", "", ""],
        ["a", "all", "42", "0.022", "", "424.8 MB"],
        ["b", "all", "3", "", "", ""],
    ]
