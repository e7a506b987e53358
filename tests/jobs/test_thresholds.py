"""The search with target eavss on a real local Ray and Ray Tune, over a hallucination run's statistics."""

from collections.abc import Callable
from pathlib import Path

import pytest
from selenium import webdriver

import stratoscope
from stratoscope.errors import InputError
from stratoscope.tables.eavss import DefinitionOutcomeRow, DefinitionTrialRow
from tests.jobs.reacting import REACTING, pairs_file, reacting_fields, reacting_model
from tests.pages import page_faults

__all__ = ["pairs_file", "reacting_fields", "reacting_model"]


@pytest.fixture(scope="module")
def measured(reacting_fields: Callable[..., dict], local_ray: None) -> stratoscope.HallucinationRun:  # noqa: ARG001
    return stratoscope.detect_hallucination(**reacting_fields(run_id="statistics"))


def settings(measured: stratoscope.HallucinationRun, run_id: str, **changes: object) -> dict:
    thresholds = {
        "definitions": ["eavss", "hallucinated_only"],
        "propensities": [1.0, 1.5],
        "levels": [0.05],
        "draws": 199,
        "separation": {"random_sets": 20},
        "choose_on": ["first"],
        "confirm_on": ["second"],
        **changes.pop("thresholds", {}),
    }
    base = {
        "output": str(Path(measured.path).parents[1]),
        "run_id": run_id,
        "target": "eavss",
        "statistics": measured.path,
        "thresholds": thresholds,
        "search": {"algorithm": "tpe", "num_samples": 12, "concurrency": 1},
    }
    return base | changes


@pytest.fixture(scope="module")
def run(measured: stratoscope.HallucinationRun) -> stratoscope.SearchRun:
    return stratoscope.search(**settings(measured, "tpe"))


def test_the_reacting_layer_is_flagged_and_confirmed_on_other_questions(run: stratoscope.SearchRun) -> None:
    trials = run.table("trials")
    assert trials.schema.equals(DefinitionTrialRow.schema())
    assert run.table("outcomes").schema.equals(DefinitionOutcomeRow.schema())
    assert trials.num_rows == 12
    assert set(trials["status"].to_pylist()) == {"done"}
    outcomes = run.table("outcomes").to_pylist()
    confirmed = [o for o in outcomes if o["role"] == "confirmed_on"]
    assert [o["dataset"] for o in confirmed] == ["second"]
    assert {o["dataset"] for o in outcomes if o["role"] == "chosen_on"} == {"first"}
    assert REACTING in confirmed[0]["flagged_layers"]
    assert confirmed[0]["auroc"] > 0.85
    assert confirmed[0]["over_random_low"] > 0
    best = max(trials.to_pylist(), key=lambda row: row["objective"])
    assert run.manifest.facts["best"] == best["trial_id"] or best["objective"] == pytest.approx(
        next(r["objective"] for r in trials.to_pylist() if r["trial_id"] == run.manifest.facts["best"])
    )
    assert run.front.num_rows >= 1
    assert Path(run.path, "report.html").stat().st_size > 100_000
    assert list(Path(run.path, "tune").rglob("events.out.tfevents*"))


def test_the_page_has_no_faults(run: stratoscope.SearchRun, browser: webdriver.Chrome) -> None:
    assert page_faults(browser, Path(run.path, "report.html")) == []


def test_at_one_concurrent_trial_a_search_repeats_itself(
    run: stratoscope.SearchRun, measured: stratoscope.HallucinationRun
) -> None:
    again = stratoscope.search(**settings(measured, "again"))
    without = [name for name in DefinitionTrialRow.schema().names if name != "seconds"]
    assert again.table("trials").select(without).equals(run.table("trials").select(without))


def test_a_grid_tries_every_candidate_once(measured: stratoscope.HallucinationRun) -> None:
    thresholds = {"definitions": ["eavss", "standardized"], "taps": ["update"], "variance": ["elementwise"]}
    grid = stratoscope.search(**settings(measured, "grid", thresholds=thresholds, search={"algorithm": "grid"}))
    rows = grid.table("trials").to_pylist()
    keys = {(r["metric"], r["epsilon"], r["propensity"]) for r in rows}
    assert len(rows) == len(keys) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": None}, "needs --statistics"),
        ({"statistics": "nowhere"}, "no folder of a hallucination run"),
        ({"search": {"algorithm": "nsga2"}}, "cannot search target eavss"),
        ({"thresholds": {"taps": ["mlp"]}}, "has no tap mlp"),
        ({"thresholds": {"confirm_on": ["third"]}}, "has no data set 'third'"),
        ({"thresholds": {"confirm_on": ["first"]}}, "it can only be one"),
        ({"thresholds": {"choose_on": [], "confirm_on": ["first", "second"]}}, "leaves no data set"),
    ],
)
def test_a_space_that_does_not_fit_the_statistics_is_refused(
    measured: stratoscope.HallucinationRun, changes: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        stratoscope.search(**settings(measured, "refused", **changes))
