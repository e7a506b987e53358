"""A search before the training, by Ray Tune: each trial is a training by Ray Train that reports to ASHA."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stratoscope.execution import Trial, TrialPlan, WorkerResources, fit_in_trial
from stratoscope.mitigation import Corpus, TrainingSettings
from stratoscope.pipelines.mitigation.config import TuneSection
from stratoscope.pipelines.mitigation.dataset import EvaluationSet
from stratoscope.pipelines.mitigation.loop import OBJECTIVE, Loop
from stratoscope.results import Storage

LayersOf = Callable[[int | None], tuple[int, ...]]
"""From a number of layers, or None for the configured one, to the layers of a variant."""


@dataclass(frozen=True)
class TuningSpace:
    """What trials choose from; a field of no choices is left as it is."""

    choices: tuple[tuple[str, tuple[float, ...]], ...]

    @classmethod
    def of(cls, section: TuneSection, *, with_layers: bool) -> "TuningSpace":
        """Return the space of a variant, with the number of its layers where that can be chosen."""
        fields: dict[str, Sequence[float]] = {
            "learning_rate": section.learning_rates,
            "temperature": section.temperatures,
            "contrastive": section.contrastive,
            "forgetting": section.forgetting,
            "num_layers": section.num_layers if with_layers else [],
        }
        return cls(tuple((name, tuple(values)) for name, values in fields.items() if values))

    def __call__(self, trial: Any) -> None:
        """Suggest a point, for Optuna."""
        for name, values in self.choices:
            trial.suggest_categorical(name, list(values))

    @property
    def size(self) -> int:
        """Number of points."""
        total = 1
        for _, values in self.choices:
            total *= len(values)
        return total

    def points(self) -> list[dict[str, float]]:
        """Return all points, the first field's values changing fastest."""
        found: list[dict[str, float]] = [{}]
        for name, values in reversed(self.choices):
            found = [{name: value, **point} for point in found for value in values]
        return sorted(found, key=lambda p: [list(v).index(p[n]) for n, v in reversed(self.choices)])


def with_point(settings: TrainingSettings, point: Mapping[str, float], layers_of: LayersOf) -> TrainingSettings:
    """Return a training's settings with what a trial has chosen."""
    terms = settings.terms
    weights = {name: float(point[name]) for name in ("contrastive", "forgetting") if name in point}
    number = point.get("num_layers")
    return replace(
        settings,
        trained=replace(settings.trained, layers=layers_of(None if number is None else int(number))),
        terms=replace(
            terms,
            weights=replace(terms.weights, **weights),
            temperature=float(point.get("temperature", terms.temperature)),
        ),
        optimising=replace(
            settings.optimising, learning_rate=float(point.get("learning_rate", settings.optimising.learning_rate))
        ),
    )


@dataclass(frozen=True, eq=False)
class TrainingTrial:
    """Runs a trial: a training of its own, whose validations are the trial's reports."""

    settings: TrainingSettings
    layers_of: LayersOf
    corpus: Corpus
    judged: EvaluationSet
    batch_tokens: int
    longest: int
    workers: WorkerResources
    rungs: int
    storage: Storage
    register: Any
    """Of where workers stand."""

    def __call__(self, config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Train; Ray Train reports by itself."""
        steps = self.settings.optimising.steps
        settings = replace(
            with_point(self.settings, config, self.layers_of),
            validate_every=max(1, -(-steps // self.rungs)),
            checkpoint_every=steps,
        )
        loop = Loop(settings, self.corpus, self.judged, self.batch_tokens, self.longest)
        name = "-".join(f"{key}={value:g}" for key, value in sorted(config.items())) or "only"
        fit_in_trial(loop, self.workers, self.storage, name, self.register)
        yield from ()


def plan(space: TuningSpace, section: TuneSection, concurrency: int, seed: int) -> TrialPlan:
    """Return how trials are chosen: all points where they are few enough, otherwise by TPE."""
    grid = space.size <= section.num_samples
    return TrialPlan(
        algorithm="tpe",
        space=space,
        points=space.points() if grid else space.points()[:1],
        metrics=(OBJECTIVE,),
        num_samples=min(space.size, section.num_samples),
        num_rungs=section.rungs,
        reduction_factor=2,
        concurrency=concurrency,
        seed=seed,
        reuse=False,
    )


def best(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial of the largest objective among those that were not stopped early, or None where all failed."""
    done = [t for t in trials if t.error is None and OBJECTIVE in t.metrics]
    longest = max((int(t.metrics.get("training_iteration", 0)) for t in done), default=0)
    whole = [t for t in done if int(t.metrics.get("training_iteration", 0)) == longest]
    return max(whole, key=lambda t: float(t.metrics[OBJECTIVE]), default=None)
