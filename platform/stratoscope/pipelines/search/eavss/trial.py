"""One trial: a candidate flags layers inside each fold, which then separate held-out answers. No model runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from stratoscope.pipelines.hallucination.config import SeparationSection
from stratoscope.pipelines.hallucination.load_statistics import load_observations
from stratoscope.pipelines.search.eavss.config import DefinitionObjective
from stratoscope.results import Storage
from stratoscope.scoring import DEFINITIONS, AnswerObservations, AnswerView, Inference, Separator, find_layers
from stratoscope.scoring.definition_outcome import DefinitionOutcome
from stratoscope.scoring.definition_space import DefinitionCandidate, DefinitionSpace
from stratoscope.scoring.separation import features


@dataclass(frozen=True)
class DefinitionEvaluator:
    """Evaluates candidates from the statistics of a hallucination run. It can be sent to other processes."""

    run: str
    """URL of the hallucination run."""
    space: DefinitionSpace
    counted: tuple[float, ...]
    """Thresholds that the run counted exactly."""
    separation: SeparationSection
    draws: int
    """Randomisations of the test inside each fold."""
    seed: int

    def evaluate(self, candidate: DefinitionCandidate, dataset: str) -> DefinitionOutcome:
        """Return the result of a candidate on a data set.

        Raises:
            ValueError: no layer can be read in the candidate's view.
        """
        statistics = _load_statistics(self.run, self.space, self.counted)
        separator = _separator(statistics, dataset, self.separation, self.seed)
        definition = DEFINITIONS[candidate.definition]
        inference = Inference(self.draws, candidate.level, candidate.propensity, self.seed)
        by_tap = statistics.readings(dataset, candidate.view)
        if candidate.tap not in by_tap:
            raise ValueError(
                f"no layer of tap {candidate.tap} can be read in {dataset} by {candidate.variance} variance"
            )
        readings = {candidate.tap: by_tap[candidate.tap]}
        sets = separator.flag_layers(definition, readings, inference)[candidate.tap]
        key = (candidate.tap, candidate.view)
        comparison = separator.compare_with_random(key, features(readings[candidate.tap]), sets)
        (result,) = find_layers(definition, readings, statistics.answers[dataset].labels, inference)
        low, high = comparison.auroc.interval(self.separation.confidence)
        difference = comparison.difference
        difference_low, difference_high = difference.interval(self.separation.confidence)
        return DefinitionOutcome(
            dataset=dataset,
            auroc=comparison.auroc.value,
            ci_low=low,
            ci_high=high,
            random=comparison.auroc.value - difference.value,
            over_random=difference.value,
            over_random_low=difference_low,
            over_random_high=difference_high,
            detectable=difference.detectable(1 - self.separation.confidence),
            share_of_random_below=comparison.share_below,
            num_layers=float(np.mean([len(layers) for layers in sets])),
            flagged_layers=tuple(np.flatnonzero(result.flagged).tolist()),
            epsilon=statistics.thresholds[candidate.tap][candidate.threshold].epsilon,
        )


@dataclass(frozen=True)
class DefinitionTrial:
    """Runs one trial in a process of Ray Tune, which reads the statistics once."""

    evaluator: DefinitionEvaluator
    datasets: tuple[str, ...]
    objective: DefinitionObjective

    def __call__(self, config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield the metrics of the trial."""
        candidate = self.evaluator.space.candidate(config)
        outcomes = [self.evaluator.evaluate(candidate, dataset) for dataset in self.datasets]
        yield {
            "objective": objective_value(outcomes, self.objective),
            "size": float(np.mean([o.num_layers for o in outcomes])),
            "outcomes": json.dumps([asdict(o) for o in outcomes]),
        }


def objective_value(outcomes: Sequence[DefinitionOutcome], objective: DefinitionObjective) -> float:
    """Return the objective of a candidate, which is maximised, from its results on several data sets."""
    if objective == "least_over_random":
        return min(o.over_random for o in outcomes)
    return float(np.mean([getattr(o, objective) for o in outcomes]))


def read_outcomes(text: str) -> list[DefinitionOutcome]:
    """Return the results that a trial reported as JSON."""
    return [DefinitionOutcome(**{**o, "flagged_layers": tuple(o["flagged_layers"])}) for o in json.loads(text)]


@lru_cache(maxsize=1)
def _load_statistics(run: str, space: DefinitionSpace, counted: tuple[float, ...]) -> AnswerObservations:
    """Read a run's statistics, once per process. Answers that cannot be read in a view of the space are left out."""
    views = [AnswerView(part, variance, 0) for part, variance in product(space.parts, space.variances)]
    return load_observations(Storage(run), space.taps, counted, space.epsilons).without_unreadable(views)


@lru_cache(maxsize=64)
def _separator(statistics: AnswerObservations, dataset: str, section: SeparationSection, seed: int) -> Separator:
    """Return a separator; it stores the areas of its random sets for other trials."""
    return Separator(statistics.answers[dataset], section.to_settings(seed))
