"""The stages of an audit: which job each is, what it stands on, and what its configuration follows from."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stratoscope.errors import InputError, suggest
from stratoscope.extensions import Registry
from stratoscope.pipelines.audit.config import ForecasterEntry, ModelEntry, ResourcesSection, Settings, Subject
from stratoscope.pipelines.audit.key_metrics import (
    KeyMetric,
    faithfulness_figures,
    hallucination_figures,
    mitigation_figures,
    score_figures,
    search_figures,
)
from stratoscope.pipelines.faithfulness import FaithfulnessJob
from stratoscope.pipelines.hallucination import HallucinationJob
from stratoscope.pipelines.mitigation import MitigationJob
from stratoscope.pipelines.runtime.job import JobMaker
from stratoscope.pipelines.score import ScoreJob
from stratoscope.pipelines.search.targets import Search
from stratoscope.results import Manifest, Storage

Runs = Mapping[str, str]
"""Folders of the subject's finished runs, by stage."""


@dataclass(frozen=True)
class Stage:
    """A kind of stage."""

    name: str
    job: JobMaker[Any]
    """What runs it."""
    of: Literal["model", "forecaster"]
    settings: Callable[[Any, Runs], Settings]
    """What of its job's configuration follows from the subject and from the stages that it stands on."""
    figures: Callable[[Storage, Manifest], Iterable[KeyMetric]]
    """Key figures of a finished run."""
    after: tuple[str, ...] = ()
    """Stages whose runs it stands on, where the subject has them."""


def _given(**values: object) -> Settings:
    return {name: value for name, value in values.items() if value is not None}


def _actors(resources: ResourcesSection) -> Settings:
    return _given(cpus=resources.cpus, gpus=resources.gpus, max=resources.workers)


def _model(entry: ModelEntry) -> Settings:
    return {"model": _given(source=entry.source, revision=entry.revision, dtype=entry.dtype)}


def _measuring(entry: ModelEntry, _runs: Runs) -> Settings:
    return _model(entry) | {"actors": _actors(entry.resources)}


def _search(entry: ModelEntry, runs: Runs) -> Settings:
    actors = _actors(entry.resources)
    return _model(entry) | {"actors": actors, "evaluators": actors} | _given(statistics=runs.get("score"))


def _mitigation(entry: ModelEntry, runs: Runs) -> Settings:
    asked = entry.resources
    workers = _given(cpus=asked.cpus, gpus=asked.gpus, num_workers=asked.workers)
    return _model(entry) | {"train": workers} | _given(layers=runs.get("hallucination"))


def _faithfulness(entry: ForecasterEntry, _runs: Runs) -> Settings:
    asked = entry.resources
    return {"grid": {"forecasters": [entry.forecaster]} | _given(cpus=asked.cpus, gpus=asked.gpus)}


_OWN = (
    Stage("score", ScoreJob, "model", _measuring, score_figures),
    Stage("hallucination", HallucinationJob, "model", _measuring, hallucination_figures),
    Stage("search", Search(), "model", _search, search_figures, after=("score",)),
    Stage("mitigation", MitigationJob, "model", _mitigation, mitigation_figures, after=("hallucination",)),
    Stage("faithfulness", FaithfulnessJob, "forecaster", _faithfulness, faithfulness_figures),
)


STAGES = Registry({stage.name: stage for stage in _OWN}, "stratoscope.stages", Stage)


def stage_of(name: str, subject: Subject) -> Stage:
    """Return a subject's stage.

    Raises:
        InputError: there is none of that name for such a subject.
    """
    kind = "model" if isinstance(subject, ModelEntry) else "forecaster"
    known = {stage.name: stage for stage in STAGES.values() if stage.of == kind}
    if name not in known:
        raise InputError(f"stages {name!r} is no stage of a {kind}{suggest(name, known, 'stages')}")
    return known[name]
