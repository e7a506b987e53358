"""The stages of an audit: the job of each, the stages that it depends on, and the settings that follow from them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from stratoscope.errors import InputError, suggest
from stratoscope.extensions import Registry
from stratoscope.pipelines.audit.config import ForecasterEntry, ModelEntry, ResourcesSection, Settings, Subject
from stratoscope.pipelines.audit.key_metrics import (
    faithfulness_metrics,
    hallucination_metrics,
    mitigation_metrics,
    score_metrics,
    search_metrics,
)
from stratoscope.pipelines.runtime.job_maker import JobMaker, LazyJob
from stratoscope.results import Run
from stratoscope.scoring import KeyMetric

Runs = Mapping[str, str]
"""Folders of the subject's finished runs, by stage."""


@dataclass(frozen=True)
class Stage:
    """A stage of an audit: a job with key metrics."""

    name: str
    job: JobMaker[Any]
    """Job that the stage runs."""
    subject_kind: Literal["model", "forecaster"]
    """Kind of subject that the stage runs on."""
    settings: Callable[[Any, Runs], Settings]
    """Returns the job settings that follow from the subject and from the runs of the stages in `after`."""
    figures: Callable[[Run], Iterable[KeyMetric]]
    """Returns the key metrics of a finished run."""
    after: tuple[str, ...] = ()
    """Stages that this stage depends on, if the subject has them."""


def _without_none(**values: object) -> Settings:
    return {name: value for name, value in values.items() if value is not None}


def _actors(resources: ResourcesSection) -> Settings:
    return _without_none(cpus=resources.cpus, gpus=resources.gpus, max=resources.workers)


def _model(entry: ModelEntry) -> Settings:
    return {"model": _without_none(source=entry.source, revision=entry.revision, dtype=entry.dtype)}


def _sharded_settings(entry: ModelEntry, _runs: Runs) -> Settings:
    return _model(entry) | {"actors": _actors(entry.resources)}


def _search_settings(entry: ModelEntry, runs: Runs) -> Settings:
    actors = _actors(entry.resources)
    return _model(entry) | {"actors": actors, "evaluators": actors} | _without_none(statistics=runs.get("score"))


def _mitigation_settings(entry: ModelEntry, runs: Runs) -> Settings:
    resources = entry.resources
    workers = _without_none(cpus=resources.cpus, gpus=resources.gpus, num_workers=resources.workers)
    return _model(entry) | {"train": workers} | _without_none(layers=runs.get("hallucination"))


def _faithfulness_settings(entry: ForecasterEntry, _runs: Runs) -> Settings:
    resources = _without_none(cpus=entry.resources.cpus, gpus=entry.resources.gpus)
    return {"grid": {"forecasters": [entry.forecaster]} | resources}


def _job(title: str) -> LazyJob:
    """Return one of this package's jobs. Its code is not imported until it runs."""
    name = title.lower()
    package = f"stratoscope.pipelines.{name}"
    return LazyJob(name, f"{package}:{title}Job", f"{package}.config:{title}Config")


_SCORE, _HALLUCINATION, _MITIGATION, _FAITHFULNESS = (
    _job(title) for title in ("Score", "Hallucination", "Mitigation", "Faithfulness")
)
_SEARCH = replace(_job("Search"), source="stratoscope.pipelines.search.targets:SEARCH")
_OWN = (
    Stage("score", _SCORE, "model", _sharded_settings, score_metrics),
    Stage("hallucination", _HALLUCINATION, "model", _sharded_settings, hallucination_metrics),
    Stage("search", _SEARCH, "model", _search_settings, search_metrics, after=("score",)),
    Stage("mitigation", _MITIGATION, "model", _mitigation_settings, mitigation_metrics, after=("hallucination",)),
    Stage("faithfulness", _FAITHFULNESS, "forecaster", _faithfulness_settings, faithfulness_metrics),
)


STAGES = Registry({stage.name: stage for stage in _OWN}, "stratoscope.stages", Stage)


def get_stage(name: str, subject: Subject) -> Stage:
    """Return a stage of a subject.

    Raises:
        InputError: there is no stage with this name for subjects of this kind.
    """
    stages = {stage.name: stage for stage in STAGES.values() if stage.subject_kind == subject.kind}
    if name not in stages:
        raise InputError(f"stages {name!r} is no stage of a {subject.kind}{suggest(name, stages, 'stages')}")
    return stages[name]
