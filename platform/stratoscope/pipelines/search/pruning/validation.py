"""Validation of a search: the front on held-out items, the chosen set against random ones, and speed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from stratoscope.evaluation import TaskItems, by_task
from stratoscope.execution import Service
from stratoscope.models.speed import SpeedComparison
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.pruning.store import EvaluationStore
from stratoscope.pipelines.search.pruning.worker import PruningEvaluatorSettings
from stratoscope.pruning import (
    Evaluation,
    LayerSet,
    ModelSize,
    RandomSetComparison,
    ScoreReader,
    TaskComparison,
    TrialResult,
    choose,
    compare_by_task,
    metric_gains,
    pareto_front,
    random_sets,
    reference_trial,
    search_gain,
    tasks_at_chance,
)
from stratoscope.pruning.comparison import HELD_OUT, SEARCH


@dataclass(frozen=True)
class ValidatedSearch:
    """The results of a search with their validation."""

    trials: Sequence[TrialResult]
    front: Sequence[TrialResult]
    chosen: TrialResult | None
    size: ModelSize
    speeds: Mapping[int, SpeedComparison]
    """Speed against the whole model, by the number of parameters."""
    held_out: Mapping[LayerSet, Evaluation]
    """Evaluations on held-out items."""
    comparisons: Sequence[TaskComparison]
    facts: Mapping[str, Any]
    """Facts for the manifest."""


class Validator:
    """Validates the result of a search with running evaluators.

    Args:
        context: the run.
        config: its configuration.
        service: the evaluators.
        settings: settings of the evaluators.
        tasks: the tasks with their items.
    """

    def __init__(
        self,
        context: RunContext,
        config: SearchConfig,
        service: Service,
        settings: PruningEvaluatorSettings,
        tasks: Sequence[TaskItems],
        *,
        protected: LayerSet,
    ) -> None:
        self._protected = protected
        self._config, self._service, self._tasks = config, service, tasks
        self._resampling = settings.resampling
        self._store, self._settings = EvaluationStore(context.storage), settings
        self._read_scores = self._reader({task.name: task.metric for task in tasks})

    def validate(self, trials: Sequence[TrialResult]) -> ValidatedSearch:
        """Choose a set from the front, and evaluate and compare it on held-out items."""
        front = pareto_front(trials)
        chosen = choose(front, self._config.search.keep)
        reference = reference_trial(trials, len(chosen.dropped)) if chosen else None
        size: ModelSize = self._service.call("size")
        speeds = self._speeds(trials, size)
        held_out = self._held_out([trial.dropped for trial in [*front, reference] if trial])
        comparisons = self._compare_all(trials, front, chosen, reference)
        facts: dict[str, Any] = {"parameters": size.total}
        if chosen is None:
            facts["verdicts"] = ["No trial has a retention, so no set was chosen."]
        else:
            retention = held_out[chosen.dropped].raw
            sets = self._random_sets(chosen.dropped, len(size.by_layer))
            against_random = RandomSetComparison(
                retention.value, tuple(e.raw.value for e in sets), self._resampling.level
            )
            facts["verdicts"] = [
                *tasks_at_chance(comparisons),
                against_random.verdict,
                *search_gain(chosen, retention, reference, self._read_scores, self._resampling),
            ]
            facts["against_random"] = {
                "chosen": against_random.chosen,
                "random": list(against_random.random),
                "p": against_random.p_value,
                "least_p": against_random.least_p,
            }
            facts["chosen"] = {"trial_id": chosen.trial_id, "dropped": list(chosen.dropped)}
            comparisons += self._compare({e.dropped: "random" for e in sets}, HELD_OUT)
        facts["verdicts"] += [task.note for task in self._tasks if task.note]
        facts["against_variance"] = list(metric_gains(trials, self._read_scores, self._resampling))
        return ValidatedSearch(trials, front, chosen, size, speeds, held_out, comparisons, facts)

    def _speeds(self, trials: Sequence[TrialResult], size: ModelSize) -> dict[int, SpeedComparison]:
        """Return the speed by the number of parameters. Sets with equal numbers share one measurement."""
        sets = {size.without(trial.dropped): trial.dropped for trial in trials}
        # One at a time, because concurrent measurements on a machine slow each other down.
        return {parameters: self._speed(parameters, dropped) for parameters, dropped in sets.items()}

    def _speed(self, parameters: int, dropped: LayerSet) -> SpeedComparison:
        speed = self._store.read_speed(parameters)
        if speed is None:
            speed = self._service.call("speed", dropped)
            self._store.write_speed(parameters, speed)
        return speed

    def _held_out(self, sets: Sequence[LayerSet]) -> dict[LayerSet, Evaluation]:
        distinct = list(dict.fromkeys(sets))
        evaluations = self._service.map("evaluate", [(dropped, HELD_OUT) for dropped in distinct])
        return dict(zip(distinct, evaluations, strict=True))

    def _random_sets(self, chosen: LayerSet, num_layers: int) -> list[Evaluation]:
        """Evaluate random sets of the chosen size on held-out items."""
        count, seed = self._config.final.random_sets, self._config.seed
        layers = [layer for layer in range(num_layers) if layer not in self._protected]
        sets = random_sets(layers, len(chosen), count, seed, exclude=chosen)
        return self._service.map("evaluate", [(dropped, HELD_OUT) for dropped in sets])

    def _compare_all(
        self,
        trials: Sequence[TrialResult],
        front: Sequence[TrialResult],
        chosen: TrialResult | None,
        reference: TrialResult | None,
    ) -> list[TaskComparison]:
        """Compare every finished trial on the items of the search, and the final sets on held-out items too."""
        final = {trial.dropped: "front" for trial in front}
        if reference:
            final.setdefault(reference.dropped, "reference")
        if chosen:
            final[chosen.dropped] = "chosen"
        finished = {trial.dropped: "trial" for trial in trials if trial.status == "done"}
        return [*self._compare(finished | final, SEARCH), *self._compare(final, HELD_OUT)]

    def _compare(self, kinds: Mapping[LayerSet, str], part: str) -> list[TaskComparison]:
        chance = self._service.call("chance", part)
        return [
            comparison
            for dropped, kind in kinds.items()
            for metrics in metrics_by_rank(self._tasks)
            for comparison in compare_by_task(
                kind,
                dropped,
                part,
                self._reader(metrics),
                chance=chance,
                metrics=metrics,
                resampling=self._resampling,
            )
        ]

    def _reader(self, metrics: Mapping[str, str]) -> ScoreReader:
        """Return a function that reads a set's scores on a part of the items, with one metric for each task."""
        return lambda dropped, part: by_task(
            [score for items in self._settings.slices(part) for score in self._store.read(dropped, items) or []],
            metrics,
        )


def metrics_by_rank(tasks: Sequence[TaskItems]) -> list[dict[str, str]]:
    """Return metrics by task: first the main metric of each task, then the second metric if there is one, and so on."""
    names = ([metric.name for metric in task.metrics] for task in tasks)
    return [
        {task.name: name for task, name in zip(tasks, rank, strict=True) if name is not None}
        for rank in zip_longest(*names)
    ]
