"""What a night's steps come to: key figures beside those of the night before, what changed, and what got worse."""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from stratoscope.execution import root_cause
from stratoscope.pipelines.audit.config import ModelEntry, RegressionThresholdsSection
from stratoscope.pipelines.audit.drift import Drift, drift
from stratoscope.pipelines.audit.key_metrics import WITHOUT_THRESHOLD, KeyMetric, finite_figures
from stratoscope.pipelines.audit.previous_runs import PreviousResult
from stratoscope.pipelines.audit.steps import Lost, Step, StepEnd
from stratoscope.pipelines.runtime.config import JobConfig, result_settings
from stratoscope.results import Manifest, Storage
from stratoscope.results.manifest import NAME

Verdict = Literal["first", "same", "steady", "regression"] | Lost
SCORE = "score"
"""The job whose runs are compared layer by layer."""
MOST_SETTINGS = 5
"""That differ, named one by one."""
MAY_DIFFER = ("seed", "statistics", "layers")
"""Settings besides the model's with which a run's figures still mean the same."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageComparison:
    """A key figure beside that of the night before."""

    figure: KeyMetric
    before: KeyMetric | None
    threshold: float | None
    """Of its loss; None of what has no threshold, and where the two runs were asked other things."""

    @property
    def loss(self) -> float | None:
        """How much worse it is, in the terms of its threshold."""
        if self.before is None or self.threshold is None:
            return None
        return self.figure.loss(self.before)

    @property
    def regressed(self) -> bool:
        """Whether it got worse by more than its threshold, and by more than the intervals allow for."""
        if self.before is None or self.loss is None or self.threshold is None:
            return False
        return self.loss > self.threshold and not self.figure.within_noise(self.before)

    @property
    def text(self) -> str:
        """The change in words."""
        before = self.before.value if self.before else math.nan
        return f"{self.figure.name}: {before:.4g} -> {self.figure.value:.4g}"


@dataclass(frozen=True)
class Assessment:
    """A step as the morning sees it."""

    step: Step
    end: StepEnd
    manifest: Manifest | None
    """Of its run, where it ended well."""
    earlier: PreviousResult | None
    compared: tuple[StageComparison, ...] = ()
    drift: Drift | None = None
    changed: tuple[str, ...] = ()
    """What is other than in the night before."""
    regressions: tuple[str, ...] = ()
    """What got worse, in words."""

    @property
    def subject(self) -> str:
        """Name of what was looked into."""
        return self.step.subject.called

    @property
    def verdict(self) -> Verdict:
        """The step in a word."""
        if self.end.status != "done" and self.end.status != "reused":  # noqa: PLR1714 - mypy follows this form
            return self.end.status
        if self.regressions:
            return "regression"
        if self.earlier is None:
            return "first"
        return "same" if self.manifest and self.manifest.run_id == self.earlier.run_id else "steady"

    @property
    def gpu_hours(self) -> float:
        """GPUs that it was said to take, times its hours."""
        return self.step.gpus * self.end.seconds / 3600


def assess(
    step: Step,
    end: StepEnd,
    earlier: PreviousResult | None,
    *,
    output: str,
    thresholds: RegressionThresholdsSection,
    seed: int,
) -> Assessment:
    """Compare a step's run with the last one of the nights before.

    What goes wrong in it, such as a run whose folder was removed, makes the step a failed one, and loses no other.

    Args:
        step: what was done.
        end: how it ended.
        earlier: what the nights before have of it.
        output: that holds all runs.
        thresholds: from when on a change is a regression.
        seed: of randomisations.
    """
    if not end.fine or end.run is None:
        return Assessment(step, end, None, earlier)
    try:
        return _assessed(step, end, earlier, output=output, thresholds=thresholds, seed=seed)
    except Exception as error:
        logger.exception("%s cannot be compared", step.key)
        lost = replace(end, status="failed", error=f"its run cannot be read: {root_cause(error)}")
        return Assessment(step, lost, None, earlier)


def _assessed(
    step: Step,
    end: StepEnd,
    earlier: PreviousResult | None,
    *,
    output: str,
    thresholds: RegressionThresholdsSection,
    seed: int,
) -> Assessment:
    storage = Storage(str(end.run))
    manifest = Manifest.from_json(storage.read(NAME))
    figures = list(finite_figures(step.stage.figures(storage, manifest)))
    known = earlier.figures if earlier else {}
    if earlier is None or manifest.run_id == earlier.run_id:
        same = tuple(StageComparison(f, known.get(f.name), _threshold(f, thresholds)) for f in figures)
        return Assessment(step, end, manifest, earlier, same)
    before = earlier.open(output)
    changed = (
        what_changed(step.stage.job.config_class, manifest, before[1])
        if before
        else Changes(("the earlier run is gone",))
    )
    asked_alike = not changed.asked
    compared = tuple(
        StageComparison(f, known.get(f.name), _threshold(f, thresholds) if asked_alike else None) for f in figures
    )
    regressions = [c.text for c in compared if c.regressed]
    there = {f.name for f in figures}
    for name in (name for name in known if name not in there):
        said = f"{name}: {known[name].value:.4g} -> none"
        if asked_alike and known[name].kind not in WITHOUT_THRESHOLD:
            regressions.append(said)
    notes = list(changed.texts)
    found: Drift | None = None
    if before and step.stage.job.name == SCORE:
        layers = drift((storage, manifest), before, level=thresholds.level, least=thresholds.layer_shift, seed=seed)
        if isinstance(layers, str):
            notes.append(f"layers were not compared: {layers}")
        else:
            found = layers
            compared += tuple(StageComparison(figure, None, None) for figure in finite_figures(_orders(found)))
            regressions += _of_layers(found, thresholds)
    return Assessment(step, end, manifest, earlier, compared, found, tuple(notes), tuple(regressions))


def _threshold(figure: KeyMetric, thresholds: RegressionThresholdsSection) -> float | None:
    if figure.kind in WITHOUT_THRESHOLD:
        return None
    value: float = getattr(thresholds, figure.kind)
    return value


def _orders(found: Drift) -> Iterator[KeyMetric]:
    for tap, correlation in found.rank_correlation.items():
        yield KeyMetric(f"rank correlation of layers with the night before, {tap}", correlation, "order")


def _of_layers(found: Drift, thresholds: RegressionThresholdsSection) -> Iterator[str]:
    """Say which layers moved, and whether their order is another."""
    if not found.moved:
        return
    worst = max((s for s in found.shifts if s.moved), key=lambda s: abs(s.shift))
    weights = f"; weights differ in layers {_list(found.reweighted)}" if found.reweighted else ""
    yield (
        f"layers {_list(found.moved)} moved on {found.design} ({found.prompts}), most of all layer {worst.layer} "
        f"at tap {worst.tap}: log AVSS {worst.shift:+.3f} ({worst.low:+.3f} to {worst.high:+.3f}){weights}"
    )
    for tap, correlation in found.rank_correlation.items():
        if correlation < thresholds.rank_correlation:
            yield f"the order of layers at tap {tap} correlates by {correlation:.2f} with that of the night before"


def _list(layers: Iterable[int]) -> str:
    return ", ".join(map(str, layers))


@dataclass(frozen=True)
class Changes:
    """What is other than in an earlier run."""

    texts: tuple[str, ...]
    asked: bool = False
    """Whether the run was asked something else, so that its figures mean something else; another model, another seed,
    and another run to stand on are no such thing."""


def what_changed(config_class: type[JobConfig], now: Manifest, before: Manifest) -> Changes:
    """Name what is other than in an earlier run of the same job, given the class of its configuration."""
    here, there = (_settings(config_class, m.config) for m in (now, before))
    differing = [name for name in here if here[name] != there.get(name)]
    texts = [f"{name} {there.get(name)} -> {here[name]}" for name in differing[:MOST_SETTINGS]]
    if len(differing) > MOST_SETTINGS:
        texts.append(f"{len(differing) - MOST_SETTINGS} more settings")
    prints = now.fingerprints.items()
    differ = [(name, before.fingerprints[name], v) for name, v in prints if before.fingerprints.get(name, v) != v]
    texts += [f"other {name}{_commits(there, here)}" for name, there, here in differ]
    versions = now.versions.items()
    texts += [f"{name} {before.versions.get(name)} -> {v}" for name, v in versions if before.versions.get(name) != v]
    if now.code != before.code:
        texts.append("other code of stratoscope")
    asked = any(not name.startswith("model.") and name not in MAY_DIFFER for name in differing)
    return Changes(tuple(texts), asked)


def _commits(before: str, now: str) -> str:
    """Return the two commits of a hub's model."""
    commits = [each.rpartition("@")[2][:12] for each in (before, now) if each.startswith("hub:")]
    return f" ({commits[0]} -> {commits[1]})" if len(commits) == 2 else ""


def _settings(config_class: type[JobConfig], config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that decide a result; of a run whose fields this version does not know, none."""
    try:
        return result_settings(config_class.model_validate(config))
    except ValidationError:
        return {}


def kind_of(step: Step) -> str:
    """Return what a step's subject is."""
    return "model" if isinstance(step.subject, ModelEntry) else "forecaster"
