"""Assessment of a night's steps: key metrics compared with the previous night, changes, and regressions."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from stratoscope.execution import root_cause
from stratoscope.pipelines.audit.config import RegressionThresholdsSection
from stratoscope.pipelines.audit.layer_drift import layer_drift
from stratoscope.pipelines.audit.previous_runs import PreviousResult
from stratoscope.pipelines.audit.steps import FailureStatus, Step, StepResult
from stratoscope.pipelines.runtime.config import JobConfig
from stratoscope.pipelines.runtime.run_lookup import recorded_settings
from stratoscope.results import Manifest, Run, Storage
from stratoscope.scoring import KeyMetric, MetricComparison
from stratoscope.scoring.drift import Drift, NotComparableError
from stratoscope.scoring.regression import ANY_INCREASE, WITHOUT_THRESHOLD, finite_metrics, missing_metrics

Verdict = Literal["first", "same", "steady", "regression"] | FailureStatus
SCORE = "score"
"""The job whose runs are compared layer by layer."""
MAX_SETTINGS = 5
"""Maximum number of changed settings that are listed individually."""
NOT_RECORDED = "not recorded"
"""Shown for the version of a package that one of two runs does not record."""
COMPARABLE_SETTINGS = ("seed", "statistics", "layers")
"""Settings, in addition to those of the model, that may differ between runs whose metrics are compared."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assessment:
    """The result of a step, compared with the previous night."""

    step: Step
    result: StepResult
    manifest: Manifest | None
    """Manifest of the step's run, where it succeeded."""
    previous: PreviousResult | None
    comparisons: tuple[MetricComparison, ...] = ()
    drift: Drift | None = None
    changes: tuple[str, ...] = ()
    """Differences from the previous night, in words."""
    regressions: tuple[str, ...] = ()
    """Regressions in words."""

    @property
    def subject(self) -> str:
        """Name of the model or forecaster."""
        return self.step.subject.display_name

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self.step.stage.name

    @property
    def verdict(self) -> Verdict:
        """The assessment as a single label."""
        if self.result.status != "done" and self.result.status != "reused":  # noqa: PLR1714 - mypy follows this form
            return self.result.status
        if self.regressions:
            return "regression"
        if self.previous is None:
            return "first"
        return "same" if self.manifest and self.manifest.run_id == self.previous.run_id else "steady"

    @property
    def gpu_hours(self) -> float:
        """GPU hours of the step: the GPUs that it requests times its hours."""
        return self.step.gpus * self.result.seconds / 3600


@dataclass(frozen=True)
class Changes:
    """Differences between two runs of a job."""

    texts: tuple[str, ...]
    """Differences in words."""
    settings_differ: bool = False
    """Whether the settings differ so much that key metrics are not comparable. A different model or seed, or a
    different run that the job depends on, does not count."""


def assess(
    step: Step,
    result: StepResult,
    previous: PreviousResult | None,
    *,
    output: str,
    thresholds: RegressionThresholdsSection,
    seed: int,
) -> Assessment:
    """Compare the run of a step with that of the previous night.

    If an error occurs, for example because the folder of a run was removed, only this step fails.

    Args:
        step: the step.
        result: the result of the step.
        previous: the latest result of a previous night.
        output: folder that holds all runs.
        thresholds: regression thresholds.
        seed: seed of the randomization tests.
    """
    if not result.succeeded or result.run is None:
        return Assessment(step, result, None, previous)
    try:
        storage = Storage(result.run)
        run = Run(storage, Manifest.read(storage))
        metrics = list(finite_metrics(step.stage.figures(run)))
        assessment = Assessment(step, result, run.manifest, previous)
        if previous is None or run.manifest.run_id == previous.run_id:
            known = previous.metrics if previous else {}
            return replace(assessment, comparisons=_comparisons(metrics, known, thresholds))
        earlier_run = previous.open(output)
        assessment = _compare_metrics(assessment, run, earlier_run, metrics, thresholds)
        if earlier_run is None or step.stage.job.name != SCORE:
            return assessment
        return _compare_layers(assessment, run, earlier_run, thresholds, seed)
    except Exception as error:
        logger.exception("%s cannot be compared", step.key)
        failed = replace(result, status="failed", error=f"its run cannot be read: {root_cause(error)}")
        return Assessment(step, failed, None, previous)


def _compare_metrics(
    assessment: Assessment,
    run: Run,
    earlier_run: Run | None,
    metrics: list[KeyMetric],
    thresholds: RegressionThresholdsSection,
) -> Assessment:
    """Add the comparison of key metrics to an assessment; thresholds apply where the settings are comparable."""
    known = assessment.previous.metrics if assessment.previous else {}
    if earlier_run is None:
        changes = Changes(("the earlier run is gone",))
    else:
        changes = find_changes(assessment.step.stage.job.config_class, run.manifest, earlier_run.manifest)
    comparisons = _comparisons(metrics, known, None if changes.settings_differ else thresholds)
    regressions = [comparison.text for comparison in comparisons if comparison.regressed]
    if not changes.settings_differ:
        missing = [metric for metric in missing_metrics(metrics, known) if metric.kind not in WITHOUT_THRESHOLD]
        regressions += [f"{metric.name}: {metric.value:.4g} -> none" for metric in missing]
    return replace(assessment, comparisons=comparisons, changes=changes.texts, regressions=tuple(regressions))


def _comparisons(
    metrics: Iterable[KeyMetric], known: Mapping[str, KeyMetric], thresholds: RegressionThresholdsSection | None
) -> tuple[MetricComparison, ...]:
    return tuple(MetricComparison(m, known.get(m.name), _threshold(m, thresholds)) for m in metrics)


def _threshold(metric: KeyMetric, thresholds: RegressionThresholdsSection | None) -> float | None:
    if thresholds is None or metric.kind in WITHOUT_THRESHOLD:
        return None
    value: float = 0.0 if metric.kind in ANY_INCREASE else getattr(thresholds, metric.kind)
    return value


def _compare_layers(
    assessment: Assessment, run: Run, earlier_run: Run, thresholds: RegressionThresholdsSection, seed: int
) -> Assessment:
    """Add the comparison of layers to the assessment of a score run."""
    try:
        drift = layer_drift(run, earlier_run, level=thresholds.level, min_shift=thresholds.layer_shift, seed=seed)
    except NotComparableError as error:
        return replace(assessment, changes=(*assessment.changes, f"layers were not compared: {error}"))
    orders = [
        KeyMetric(f"rank correlation of layers with the night before, {tap}", correlation, "order")
        for tap, correlation in drift.rank_correlation.items()
    ]
    return replace(
        assessment,
        comparisons=(*assessment.comparisons, *_comparisons(finite_metrics(orders), {}, None)),
        drift=drift,
        changes=(*assessment.changes, *(f"layers: {note}" for note in (drift.limit, *drift.notes) if note)),
        regressions=(*assessment.regressions, *_layer_regressions(drift, thresholds)),
    )


def _layer_regressions(drift: Drift, thresholds: RegressionThresholdsSection) -> Iterator[str]:
    """Yield texts on the layers that moved, and on taps whose order of layers changed."""
    if not drift.moved:
        return
    worst = max((shift for shift in drift.shifts if shift.moved), key=lambda shift: abs(shift.shift))
    weights = f"; weights differ in {_layers(drift.reweighted)}" if drift.reweighted else ""
    yield (
        f"{_layers(drift.moved)} moved on {drift.design} ({drift.prompts}), most of all layer {worst.layer} "
        f"at tap {worst.tap}: log AVSS {worst.shift:+.3f} ({worst.low:+.3f} to {worst.high:+.3f}){weights}"
    )
    for tap, correlation in drift.rank_correlation.items():
        if correlation < thresholds.rank_correlation:
            yield f"the order of layers at tap {tap} correlates by {correlation:.2f} with that of the night before"


def _layers(layers: Collection[int]) -> str:
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(map(str, layers))}"


def find_changes(config_class: type[JobConfig], now: Manifest, before: Manifest) -> Changes:
    """Return the differences between two runs of a job. Other versions may have made the runs.

    Args:
        config_class: the job's configuration class.
        now: manifest of the later run.
        before: manifest of the earlier run.
    """
    new, old = (recorded_settings(config_class, manifest.config) for manifest in (now, before))
    settings = [name for name in {**new, **old} if new.get(name) != old.get(name)]
    texts = [f"{name} {old.get(name)} -> {new.get(name)}" for name in settings[:MAX_SETTINGS]]
    if len(settings) > MAX_SETTINGS:
        texts.append(f"{len(settings) - MAX_SETTINGS} more settings")
    for name, old_print, new_print in _differences(before.fingerprints, now.fingerprints):
        # The configuration tells why one of them is new or gone.
        if old_print is not None and new_print is not None:
            texts.append(f"other {name}{_commits(old_print, new_print)}")
    texts += [
        f"{name} {old_v or NOT_RECORDED} -> {new_v or NOT_RECORDED}"
        for name, old_v, new_v in _differences(before.versions, now.versions)
    ]
    if not any(name.endswith(".taps") for name in settings):
        texts += _withdrawn_taps(now.facts.get("withdrawn", {}), before.facts.get("withdrawn", {}))
    if now.code != before.code:
        texts.append("other code of stratoscope")
    differ = any(not name.startswith("model.") and name not in COMPARABLE_SETTINGS for name in settings)
    return Changes(tuple(texts), differ)


def _withdrawn_taps(now: Mapping[str, str], before: Mapping[str, str]) -> Iterator[str]:
    """Yield in words which taps the model lets read in one of two runs alone; the mappings give the reasons."""
    yield from (f"tap {tap} is not read: {reason}" for tap, reason in now.items() if tap not in before)
    yield from (f"tap {tap} is read again" for tap in before if tap not in now)


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[tuple[str, str | None, str | None]]:
    """Return name, old value and new value of each entry that differs; None where a mapping lacks it."""
    return [(name, old.get(name), new.get(name)) for name in {**new, **old} if old.get(name) != new.get(name)]


def _commits(old: str, new: str) -> str:
    """Return the two commits of a model from the hub."""
    commits = [each.rpartition("@")[2][:12] for each in (old, new) if each.startswith("hub:")]
    return f" ({commits[0]} -> {commits[1]})" if len(commits) == 2 else ""
