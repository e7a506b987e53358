"""Key metrics of a night, compared with those of the previous night."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stratoscope.pipelines.audit.assess import Assessment, assess, find_changes
from stratoscope.pipelines.audit.config import AuditConfig, RegressionThresholdsSection
from stratoscope.pipelines.audit.previous_runs import PreviousResult
from stratoscope.pipelines.audit.steps import Step, StepResult, all_steps
from stratoscope.pipelines.faithfulness import FaithfulnessConfig
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.score.config import ScoreConfig
from stratoscope.results import Manifest, RunFolder
from stratoscope.scoring import KeyMetric


def step(metrics: Sequence[KeyMetric]) -> Step:
    """A step whose run has given key metrics."""
    config = validate(AuditConfig, {"models": [], "forecasters": [{"forecaster": "linear"}]})
    (only,) = all_steps(config, "night")
    return replace(only, stage=replace(only.stage, figures=lambda _run: metrics))


def write_run(output: str, run_id: str, **config: object) -> RunFolder:
    folder = RunFolder(output, "faithfulness", run_id)
    settings = validate(FaithfulnessConfig, config).model_dump(mode="json")
    folder.write_manifest(Manifest("faithfulness", run_id, settings, 0))
    return folder


def night(output: Path, now: Sequence[KeyMetric], before: Sequence[KeyMetric], **config: object) -> Assessment:
    """Assess a run beside an earlier one of usual settings."""
    write_run(str(output), "n1.linear")
    run = write_run(str(output), "n2.linear", **config)
    earlier = PreviousResult("n1", "faithfulness", "n1.linear", {figure.name: figure for figure in before})
    result = StepResult("done", run.url, 1.0, None)
    return assess(step(now), result, earlier, output=str(output), thresholds=RegressionThresholdsSection(), seed=0)


@pytest.mark.parametrize(
    ("kind", "before", "now", "verdict"),
    [
        ("retention", 0.80, 0.78, "steady"),
        ("retention", 0.80, 0.76, "regression"),
        ("retention", 0.76, 0.80, "steady"),
        ("hallucination_rate", 0.5, 0.6, "regression"),
        ("hallucination_rate", 0.6, 0.5, "steady"),
        ("error", 2.0, 2.09, "steady"),
        ("error", 2.0, 2.11, "regression"),
        ("seed_spread", 0.01, 0.016, "regression"),
        ("failures", 0.1, 0.1, "steady"),
        ("failures", 0.1, 0.11, "regression"),
        ("failures", 0.1, 0.0, "steady"),
        ("fact", 1.0, 100.0, "steady"),
    ],
)
def test_a_figure_that_got_worse_beyond_its_threshold_is_a_regression(
    kind: str, before: float, now: float, verdict: str, tmp_path: Path
) -> None:
    assessment = night(tmp_path, [KeyMetric("it", now, kind)], [KeyMetric("it", before, kind)])  # type: ignore[arg-type]
    assert assessment.verdict == verdict


def test_a_change_that_the_intervals_allow_for_is_none(tmp_path: Path) -> None:
    before = KeyMetric("rate", 0.5, "hallucination_rate", 0.4, 0.6)
    assert night(tmp_path, [KeyMetric("rate", 0.62, "hallucination_rate", 0.52, 0.72)], [before]).verdict == "steady"
    assert (
        night(tmp_path, [KeyMetric("rate", 0.66, "hallucination_rate", 0.56, 0.76)], [before]).verdict == "regression"
    )


@pytest.mark.parametrize("now", [[], [KeyMetric("loss", float("nan"), "error")], [KeyMetric("loss", None, "error")]])  # type: ignore[arg-type]
def test_a_figure_that_is_gone_or_no_number_is_a_regression(now: list[KeyMetric], tmp_path: Path) -> None:
    assessment = night(tmp_path, now, [KeyMetric("loss", 1.0, "error"), KeyMetric("note", 1.0)])
    assert assessment.regressions == ("loss: 1 -> none",)


def test_runs_with_other_settings_are_not_compared(tmp_path: Path) -> None:
    now, before = [KeyMetric("loss", 9.0, "error")], [KeyMetric("loss", 1.0, "error")]
    assessment = night(tmp_path, now, before, fit={"epochs": 3})
    assert assessment.verdict == "steady"
    assert assessment.changes == ("fit.epochs 10 -> 3",)
    # Runs of other seeds are comparable.
    assert night(tmp_path, now, before, seed=3).verdict == "regression"
    # The number of CPUs does not affect the result.
    assert night(tmp_path, now, before, grid={"cpus": 2}).verdict == "regression"


def test_what_goes_wrong_with_one_step_makes_it_a_failed_one(tmp_path: Path) -> None:
    result = StepResult("done", str(tmp_path / "nowhere"), 1.0, None)
    assessment = assess(step([]), result, None, output=str(tmp_path), thresholds=RegressionThresholdsSection(), seed=0)
    assert assessment.verdict == "failed"
    assert assessment.result.error is not None
    assert "cannot be read" in assessment.result.error


def test_the_commits_of_a_hub_model_are_named() -> None:
    config = FaithfulnessConfig().model_dump(mode="json")
    now, before = (Manifest("faithfulness", run_id, config, 0) for run_id in ("b", "a"))
    now.fingerprints, before.fingerprints = ({"weights": f"hub:owner/model@{c * 40}"} for c in "21")
    assert f"other weights ({'1' * 12} -> {'2' * 12})" in find_changes(FaithfulnessConfig, now, before).texts


def test_a_package_that_only_one_run_records_is_a_change() -> None:
    config = FaithfulnessConfig().model_dump(mode="json")
    now, before = (Manifest("faithfulness", run_id, config, 0) for run_id in ("b", "a"))
    now.versions, before.versions = {"torch": "2", "new": "1"}, {"torch": "2", "gone": "3"}
    texts = find_changes(FaithfulnessConfig, now, before).texts
    assert texts == ("new not recorded -> 1", "gone 3 -> not recorded")


def test_a_tap_that_one_run_could_not_read_is_a_change() -> None:
    config = {"activations": {"taps": ["mlp", "update"]}}
    now, before = (Manifest("score", run_id, config, 0, facts={}) for run_id in ("b", "a"))
    now.facts["withdrawn"] = {"mlp": "no such module"}
    assert find_changes(ScoreConfig, now, before).texts == ("tap mlp is not read: no such module",)
    assert find_changes(ScoreConfig, before, now).texts == ("tap mlp is read again",)


def test_a_run_of_another_version_is_compared_by_the_fields_that_both_know() -> None:
    now = Manifest("faithfulness", "b", FaithfulnessConfig().model_dump(mode="json"), 0)
    before = Manifest("faithfulness", "a", {"gone": 1, "fit": {"epochs": 3}}, 0, code="x")
    changes = find_changes(FaithfulnessConfig, now, before)
    assert changes.settings_differ
    assert changes.texts == ("fit.epochs 3 -> 10", "gone 1 -> None", "other code of stratoscope")
    assert not find_changes(FaithfulnessConfig, now, Manifest("faithfulness", "a", {}, 0)).texts, "defaults are equal"
