"""What a night's steps come to: key figures beside those of the night before, what changed, and what got worse."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from stratoscope.pipelines.audit.config import ModelEntry, ThresholdsSection
from stratoscope.pipelines.audit.drift import Drift, drift
from stratoscope.pipelines.audit.figures import Figure
from stratoscope.pipelines.audit.nights import Earlier
from stratoscope.pipelines.audit.steps import Lost, Step, StepEnd
from stratoscope.pipelines.config import JobConfig, result_settings
from stratoscope.results import Manifest, Storage
from stratoscope.results.manifest import NAME

Verdict = Literal["first", "same", "steady", "regression"] | Lost
MOST_SETTINGS = 5
"""That differ, named one by one."""


@dataclass(frozen=True)
class Compared:
    """A key figure beside that of the night before."""

    figure: Figure
    before: float | None
    threshold: float | None
    """Of its loss; None of a fact."""

    @property
    def loss(self) -> float | None:
        """How much worse it is, in the terms of its threshold."""
        if self.before is None or self.threshold is None:
            return None
        return self.figure.loss(self.before)

    @property
    def regressed(self) -> bool:
        """Whether it got worse by more than its threshold."""
        return self.loss is not None and self.threshold is not None and self.loss > self.threshold

    @property
    def text(self) -> str:
        """The change in words."""
        return f"{self.figure.name}: {self.before:.4g} -> {self.figure.value:.4g}"


@dataclass(frozen=True)
class Assessment:
    """A step as the morning sees it."""

    step: Step
    end: StepEnd
    manifest: Manifest | None
    """Of its run, where it ended well."""
    earlier: Earlier | None
    compared: tuple[Compared, ...] = ()
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
    step: Step, end: StepEnd, earlier: Earlier | None, *, output: str, thresholds: ThresholdsSection, seed: int
) -> Assessment:
    """Compare a step's run with the last one of the nights before.

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
    storage = Storage(end.run)
    manifest = Manifest.from_json(storage.read(NAME))
    figures = list(step.stage.figures(storage, manifest))
    known = earlier.figures if earlier else {}
    compared = tuple(Compared(f, known.get(f.name), _threshold(f, thresholds)) for f in figures)
    if earlier is None or manifest.run_id == earlier.run_id:
        return Assessment(step, end, manifest, earlier, compared)
    before = earlier.open(output)
    changed = what_changed(step.stage.job.config_class, manifest, before[1]) if before else ("the earlier run is gone",)
    found: Drift | None = None
    if before and step.stage.name == "score":
        compared_layers = drift(
            (storage, manifest), before, level=thresholds.level, least=thresholds.layer_shift, seed=seed
        )
        if isinstance(compared_layers, str):
            changed = (*changed, f"layers were not compared: {compared_layers}")
        else:
            found = compared_layers
    regressions = [c.text for c in compared if c.regressed]
    if found:
        regressions += _of_layers(found, thresholds)
    return Assessment(step, end, manifest, earlier, compared, found, tuple(changed), tuple(regressions))


def _threshold(figure: Figure, thresholds: ThresholdsSection) -> float | None:
    if figure.kind == "fact":
        return None
    value: float = getattr(thresholds, figure.kind)
    return value


def _of_layers(found: Drift, thresholds: ThresholdsSection) -> Iterator[str]:
    """Say which layers moved."""
    if found.moved:
        worst = max((s for s in found.shifts if s.moved), key=lambda s: abs(s.shift))
        weights = f"; the weights of layers {_list(found.reweighted)} are others" if found.reweighted else ""
        yield (
            f"layers {_list(found.moved)} moved on {found.design} ({found.prompts}), most of all layer {worst.layer} "
            f"at tap {worst.tap}: log AVSS {worst.shift:+.3f} ({worst.low:+.3f} to {worst.high:+.3f}){weights}"
        )
    for tap, correlation in found.rank_correlation.items():
        if correlation < thresholds.rank_correlation:
            yield f"the order of layers at tap {tap} correlates by {correlation:.2f} with that of the night before"


def _list(layers: Any) -> str:
    return ", ".join(map(str, layers))


def what_changed(config_class: type[JobConfig], now: Manifest, before: Manifest) -> tuple[str, ...]:
    """Name what is other than in an earlier run of the same job, given the class of its configuration."""
    here, there = (result_settings(config_class.model_validate(m.config)) for m in (now, before))
    differing = [name for name in here if here[name] != there.get(name)]
    found = [f"{name} {there.get(name)} -> {here[name]}" for name in differing[:MOST_SETTINGS]]
    if len(differing) > MOST_SETTINGS:
        found.append(f"{len(differing) - MOST_SETTINGS} more settings")
    prints = now.fingerprints.items()
    found += [f"other {name}" for name, value in prints if before.fingerprints.get(name, value) != value]
    versions = now.versions.items()
    found += [f"{name} {before.versions.get(name)} -> {v}" for name, v in versions if before.versions.get(name) != v]
    if now.code != before.code:
        found.append("other code of stratoscope")
    return tuple(found)


def kind_of(step: Step) -> str:
    """Return what a step's subject is."""
    return "model" if isinstance(step.subject, ModelEntry) else "forecaster"
