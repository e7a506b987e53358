"""Exploration: the trials of a search, by Ray Tune or greedily, each an evaluated set of dropped layers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from stratoscope.errors import InputError, RunError, last_line
from stratoscope.execution import Service, Trial, TrialPlan
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.runtime.trials import tune
from stratoscope.pipelines.search.config import SearchConfig, SearchSection
from stratoscope.pipelines.search.pruning.statistics import FinishedScore, all_scores
from stratoscope.pipelines.search.trials import plan_trials, trial_origin
from stratoscope.pruning import (
    FROM_SCORES,
    PERPLEXITY_DROP,
    STRATEGY_NAMES,
    Evaluation,
    LayerScores,
    LayerSet,
    ObjectiveFunction,
    PruningCandidate,
    PruningSpace,
    ScoreKey,
    SetEvaluator,
    StrategyName,
    StrategySettings,
    TrialResult,
    best_sets,
    choose,
    greedy_sets,
    make_strategy,
    pareto_front,
    perplexity_ratios,
    random_sets,
    run_strategy,
    swap_layers,
)
from stratoscope.pruning.evaluation import WORST
from stratoscope.scoring import num_dropped


@dataclass(frozen=True)
class PruningTrial:
    """Runs one trial in a process of Ray Tune, which calls the evaluators and holds no model."""

    service: str
    """Name of the evaluators' service."""
    space: PruningSpace
    scores: Mapping[ScoreKey, LayerScores]
    num_layers: int
    rungs: Sequence[int]
    """Rungs after which the trial reports."""
    objective: ObjectiveFunction

    def __call__(self, config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield the metrics of each rung."""
        dropped = self.space.candidate(config).dropped(self.scores, self.num_layers)
        service, share = Service(self.service), len(dropped) / self.num_layers
        for rung in self.rungs:
            evaluation: Evaluation = service.call("evaluate", dropped, "search", rung)
            yield {"objective": self.objective(evaluation, share), "kept": 1 - share, "rung": rung}


def needs_scores(search: SearchSection) -> bool:
    """Return whether a search needs the scores of layers, and so a score run."""
    if search.algorithm in STRATEGY_NAMES:
        return search.algorithm in FROM_SCORES and search.starting_points
    return search.algorithm != "greedy"


class Explorer:
    """Explores the space of a search with running evaluators.

    Args:
        context: the run.
        config: its configuration.
        service: the evaluators.
        num_layers: number of layers of the model.
        protected: layers that have to be kept.
    """

    def __init__(
        self, context: RunContext, config: SearchConfig, service: Service, num_layers: int, protected: LayerSet
    ) -> None:
        self._context, self._config, self._service, self._num_layers = context, config, service, num_layers
        self._protected = protected
        self._droppable = [layer for layer in range(num_layers) if layer not in protected]
        search = config.search
        one_number = search.algorithm == "tpe" and len(config.space.ratios) > 1
        self._space = config.space.to_space()
        self._objective = ObjectiveFunction(search.objective, search.keep if one_number else None)
        self.counts: dict[str, int] = {}
        """Evaluated sets of greedy search and swaps, for the manifest."""

    def explore(self, statistics: FinishedScore | None) -> list[TrialResult]:
        """Run all trials of the configuration, and return them in order.

        Args:
            statistics: the score run; None where the search needs no scores.

        Raises:
            InputError: the objective cannot be computed.
            RunError: no trial finished, or the run is to stop.
        """
        base: Evaluation = self._service.call("evaluate", (), "search")
        if self._objective(base, 0.0) <= WORST:
            raise InputError(
                f"search.objective {self._objective.objective} cannot be computed for the whole model: it is above "
                "chance on no task, or its answers have no likelihood; take other tasks, more items, or retention_raw"
            )
        algorithm = self._config.search.algorithm
        scores = self._scores(statistics) if statistics is not None and needs_scores(self._config.search) else {}
        if algorithm in STRATEGY_NAMES:
            trials = self._search_sets(scores)
        elif algorithm == "greedy" or not scores:
            trials = self._greedy()
        else:
            trials = self._tune(scores)
        if all(trial.status == "error" for trial in trials):
            cause = f"; the first failed with: {trials[0].error}" if trials else ""
            raise RunError(f"no trial finished{cause}")
        return trials + self._swaps(trials)

    def _scores(self, statistics: FinishedScore) -> dict[ScoreKey, LayerScores]:
        scores = all_scores(statistics, self._space, self._config.seed)
        if PERPLEXITY_DROP in self._space.metrics:
            whole: Evaluation = self._service.call("evaluate", (), "text")
            single = self._service.map("evaluate", [((layer,), "text") for layer in self._droppable])
            bits = [math.nan] * self._num_layers
            for layer, evaluation in zip(self._droppable, single, strict=True):
                bits[layer] = evaluation.bits_per_byte
            scores[ScoreKey(PERPLEXITY_DROP)] = perplexity_ratios(whole.bits_per_byte, bits)
        return {key: values.without(self._protected) for key, values in scores.items()}

    def _tune(self, scores: Mapping[ScoreKey, LayerScores]) -> list[TrialResult]:
        search = self._config.search
        rungs = range(1, len(search.rungs) + 1)
        reported = rungs if search.algorithm == "tpe" else rungs[-1:]
        trial = PruningTrial(self._service.name, self._space, scores, self._num_layers, reported, self._objective)
        plan = plan_trials(
            search,
            self._space,
            grid=map(self._space.config, self._space.grid()),
            starting_points=map(self._space.config, self._space.starting_points()),
            metrics=("objective", "kept"),
            num_rungs=len(rungs),
            concurrency=search.concurrency or self._service.size,
            seed=self._config.seed,
        )
        callbacks = self._config.tracking.to_callbacks(self._context.folder.run_id)
        trials = tune(self._context, trial, plan, callbacks=callbacks)
        return [self._tuned_result(index, trial, scores, plan) for index, trial in enumerate(trials)]

    def _tuned_result(
        self, index: int, trial: Trial, scores: Mapping[ScoreKey, LayerScores], plan: TrialPlan
    ) -> TrialResult:
        candidate = self._space.candidate(trial.config)
        dropped = candidate.dropped(scores, self._num_layers)
        applied = scores[candidate.key(self._num_layers)].epsilon
        if applied is not None:
            candidate = replace(candidate, epsilon=applied)
        trial_id, origin, rung = f"{index:04d}", trial_origin(index, plan), trial.metrics.get("rung")
        if trial.error is not None or rung is None:
            message = last_line(trial.error or "") or "it reported nothing"
            return TrialResult(trial_id, origin, candidate, dropped, None, math.nan, None, 0.0, "error", message)
        evaluation: Evaluation = self._service.call("evaluate", dropped, "search", rung)
        # The evaluators read this evaluation from storage, so the duration of the trial is used instead.
        evaluation = replace(evaluation, seconds=trial.metrics.get("time_total_s", evaluation.seconds))
        return self._result(trial_id, origin, candidate, evaluation, rung=rung, objective=trial.metrics["objective"])

    def _result(
        self,
        trial_id: str,
        origin: str,
        candidate: PruningCandidate | None,
        evaluation: Evaluation,
        *,
        rung: int,
        objective: float,
    ) -> TrialResult:
        search = self._config.search
        above_chance = search.objective == "retention_above_chance"
        status = "done" if rung == len(search.rungs) else "stopped"
        return TrialResult(
            trial_id=trial_id,
            origin=origin,
            candidate=candidate,
            dropped=evaluation.dropped,
            evaluation=evaluation,
            retention=(evaluation.above_chance if above_chance else evaluation.raw).value,
            objective=None if evaluation.undefined else objective,
            share_of_items=search.rungs[rung - 1],
            status="error" if evaluation.undefined else status,
            error=evaluation.undefined,
        )

    def _greedy(self) -> list[TrialResult]:
        max_size = max(num_dropped(ratio, self._num_layers) for ratio in self._space.ratios)
        total = sum(len(self._droppable) - size for size in range(max_size))
        with self._context.progress("greedy", total, 0, "sets") as bar:
            sets = greedy_sets(
                self._set_evaluator(num_slices=1), self._droppable, max_size=max_size, on_progress=bar.add
            )
        self.counts["greedy_tries"] = total
        return self._set_results(sets, "greedy", 0)

    def _search_sets(self, scores: Mapping[ScoreKey, LayerScores]) -> list[TrialResult]:
        """Run the configured strategy at each ratio, and evaluate its best sets on all items."""
        search, results = self._config.search, list(self._starting_points(scores))
        name = cast("StrategyName", search.algorithm)
        last = len(search.rungs)
        for ratio in self._space.ratios:
            settings = StrategySettings(
                layers=tuple(self._droppable),
                num_layers=self._num_layers,
                size=num_dropped(ratio, self._num_layers),
                budget=search.num_samples,
                seed=self._config.seed,
                starts=partial(self._starts, scores),
                beam_width=search.beam_width,
            )
            with self._context.progress(name, search.num_samples, 0, "sets") as bar:
                history = run_strategy(
                    make_strategy(name, settings),
                    self._set_evaluator(num_slices=1),
                    budget=settings.budget,
                    num_layers=self._num_layers,
                    on_progress=bar.add,
                )
            self.counts[f"{name}_tries"] = self.counts.get(f"{name}_tries", 0) + len(history)
            if last > 1:
                tried = [evaluated.dropped for evaluated in history]
                results += self._set_results(tried, name, len(results), rung=1)
            finalists = [evaluated.dropped for evaluated in best_sets(history, settings.size, search.finalists)]
            results += self._set_results(finalists, name, len(results))
        return results

    def _starting_points(self, scores: Mapping[ScoreKey, LayerScores]) -> Iterator[TrialResult]:
        """Yield the starting sets as trials on all items, so that the report can compare them with the sets found."""
        rung = len(self._config.search.rungs)
        for index, candidate in enumerate(self._space.starting_points() if scores else []):
            dropped = candidate.dropped(scores, self._num_layers)
            applied = scores[candidate.key(self._num_layers)].epsilon
            evaluation: Evaluation = self._service.call("evaluate", dropped, "search")
            yield self._result(
                f"{index:04d}",
                "starting point",
                candidate if applied is None else replace(candidate, epsilon=applied),
                evaluation,
                rung=rung,
                objective=self._objective(evaluation, len(dropped) / self._num_layers),
            )

    def _starts(self, scores: Mapping[ScoreKey, LayerScores], size: int) -> list[LayerSet]:
        """Return the sets of a given size that scores select, or one random set if there are no scores."""
        space = replace(self._space, ratios=(size / self._num_layers,))
        # A metric over spans of layers has scores only for the lengths that follow from the ratios of the space.
        candidates = [c for c in space.starting_points() if c.key(self._num_layers) in scores]
        sets = [candidate.dropped(scores, self._num_layers) for candidate in candidates]
        return list(dict.fromkeys(sets)) or random_sets(self._droppable, size, 1, self._config.seed)

    def _swaps(self, trials: Sequence[TrialResult]) -> list[TrialResult]:
        budget = self._config.search.swaps
        best = choose(pareto_front(trials), self._config.search.keep)
        if not budget or best is None:
            return []
        with self._context.progress("swaps", budget, 0, "swaps") as bar:
            sets = swap_layers(
                self._set_evaluator(),
                best.dropped,
                self._droppable,
                budget=budget,
                batch_size=self._service.size,
                seed=self._config.seed,
                on_progress=bar.add,
            )
        self.counts |= {"swaps_tried": bar.done, "swaps_taken": len(sets)}
        return self._set_results(sets, "swap", len(trials))

    def _set_results(
        self, sets: Sequence[LayerSet], origin: str, first: int, *, rung: int | None = None
    ) -> list[TrialResult]:
        """Return sets as trials on the items up to a rung, or on all items."""
        results = []
        rung = rung or len(self._config.search.rungs)
        for index, dropped in enumerate(sets, first):
            evaluation: Evaluation = self._service.call("evaluate", dropped, "search", rung)
            objective = self._objective(evaluation, len(dropped) / self._num_layers)
            results.append(self._result(f"{index:04d}", origin, None, evaluation, rung=rung, objective=objective))
        return results

    def _set_evaluator(self, num_slices: int | None = None) -> SetEvaluator:
        """Return a function that evaluates sets on the first slices of the search's items, or on all slices."""
        objective = ObjectiveFunction(self._config.search.objective)
        remembered: LayerSet | None = None

        def evaluate(current: LayerSet, sets: Sequence[LayerSet]) -> list[float]:
            nonlocal remembered
            if current and current != remembered:
                self._service.broadcast("remember", current, num_slices)
                remembered = current
            evaluations = self._service.map("evaluate", [(dropped, "search", num_slices) for dropped in sets])
            return [objective(e, len(e.dropped) / self._num_layers) for e in evaluations]

        return evaluate
