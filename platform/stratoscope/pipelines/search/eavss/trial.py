"""One trial: a candidate flags layers inside each fold, and these tell held-out answers apart. No model runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from stratoscope.pipelines.hallucination.config import SeparationSection
from stratoscope.pipelines.hallucination.load_statistics import load_observations
from stratoscope.pipelines.search.eavss.space import DefinitionCandidate, DefinitionSpace
from stratoscope.results import Storage
from stratoscope.scoring import (
    DEFINITIONS,
    AnswerObservations,
    EpsilonKind,
    Inference,
    Separator,
    find_layers,
)
from stratoscope.scoring.separation import features

Epsilons = tuple[tuple[EpsilonKind, float], ...]


@dataclass(frozen=True)
class DefinitionOutcome:
    """How a candidate does on one data set."""

    dataset: str
    auroc: float
    ci_low: float
    ci_high: float
    random: float
    """Mean area of random sets of as many layers."""
    over_random: float
    over_random_low: float
    over_random_high: float
    detectable: float
    """Difference to random sets that data of this size would find in four of five cases."""
    share_of_random_below: float
    num_layers: float
    """Mean number of flagged layers over folds."""
    flagged: tuple[int, ...]
    """On all questions of the data set."""
    epsilon: float
    """The sparsity threshold, as applied."""


@dataclass(frozen=True)
class Judge:
    """Judges candidates by the statistics of a hallucination run; it can be sent to other processes."""

    run: str
    """URL of the run."""
    space: DefinitionSpace
    counted: tuple[float, ...]
    """Thresholds that the run counted exactly."""
    seed: int

    def outcome(self, candidate: DefinitionCandidate, dataset: str) -> DefinitionOutcome:
        """Return how a candidate does on a data set."""
        observed = _observed(self.run, self.space.taps, self.counted, tuple(self.space.epsilons))
        separator = _separator(observed, dataset, self.space.section.separation, self.seed)
        definition = DEFINITIONS[candidate.definition]
        inference = Inference(self.space.section.draws, candidate.level, candidate.propensity, self.seed)
        readings = {candidate.tap: observed.readings(dataset, candidate.view)[candidate.tap]}
        sets = separator.flag_layers(definition, readings, inference)[candidate.tap]
        key = (candidate.tap, candidate.view)
        compared = separator.compare_with_random(key, features(readings[candidate.tap]), sets)
        (found,) = find_layers(definition, readings, observed.answers[dataset].labels, inference)
        confidence = self.space.section.separation.confidence
        low, high = compared.auroc.interval(confidence)
        over = compared.difference
        over_low, over_high = over.interval(confidence)
        return DefinitionOutcome(
            dataset=dataset,
            auroc=compared.auroc.value,
            ci_low=low,
            ci_high=high,
            random=compared.auroc.value - over.value,
            over_random=over.value,
            over_random_low=over_low,
            over_random_high=over_high,
            detectable=over.detectable(1 - confidence),
            share_of_random_below=compared.share_below,
            num_layers=float(np.mean([len(s) for s in sets])),
            flagged=tuple(np.flatnonzero(found.flagged).tolist()),
            epsilon=observed.thresholds[candidate.tap][candidate.threshold].epsilon,
        )


@dataclass(frozen=True)
class DefinitionTrial:
    """Runs trials in processes of their own, each of which reads the statistics once."""

    judge: Judge
    datasets: tuple[str, ...]

    def __call__(self, config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield what a trial reports."""
        candidate = self.judge.space.candidate(config)
        outcomes = [self.judge.outcome(candidate, dataset) for dataset in self.datasets]
        yield {
            "objective": objective(outcomes, self.judge.space.section.objective),
            "size": float(np.mean([o.num_layers for o in outcomes])),
            "outcomes": json.dumps([asdict(o) for o in outcomes]),
        }


def objective(outcomes: Sequence[DefinitionOutcome], name: str) -> float:
    """Return what is to be large, over data sets."""
    if name == "least_over_random":
        return min(o.over_random for o in outcomes)
    return float(np.mean([getattr(o, name) for o in outcomes]))


def read_outcomes(text: str) -> list[DefinitionOutcome]:
    """Return what a trial reported."""
    return [DefinitionOutcome(**{**o, "flagged": tuple(o["flagged"])}) for o in json.loads(text)]


@lru_cache(maxsize=1)
def _observed(run: str, taps: tuple[str, ...], counted: tuple[float, ...], epsilons: Epsilons) -> AnswerObservations:
    """Read a run's statistics, once in a process."""
    return load_observations(Storage(run), taps, counted, epsilons)


@lru_cache(maxsize=64)
def _separator(observed: AnswerObservations, dataset: str, section: SeparationSection, seed: int) -> Separator:
    """Return a separator, which keeps the areas of its random sets for other trials."""
    return Separator(observed.answers[dataset], section.to_settings(seed))
