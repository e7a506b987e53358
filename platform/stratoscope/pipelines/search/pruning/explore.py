"""The search itself: candidates become trials, and every trial a row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stratoscope.errors import InputError, RunError, first_line
from stratoscope.execution import Service, Trial, TrialPlan
from stratoscope.pipelines.runtime.trials import tune
from stratoscope.pipelines.search.config import PERPLEXITY_DROP
from stratoscope.pipelines.search.pruning import statistics
from stratoscope.pipelines.search.pruning.statistics import FinishedScore
from stratoscope.pipelines.search.pruning.trial import WORST, ObjectiveFunction, PruningTrial
from stratoscope.pipelines.search.pruning.worker import Evaluation, PruningEvaluatorSettings
from stratoscope.pruning.greedy import greedy_sets, swap_layers
from stratoscope.pruning.selection import TrialResult, choose, pareto_front
from stratoscope.pruning.space import LayerScores, PruningCandidate, PruningSpace, ScoreKey
from stratoscope.scoring import num_dropped

if TYPE_CHECKING:
    from stratoscope.pipelines.search.pruning.run import SearchJob


class Explorer:
    """Explores the space of a search with running evaluators.

    Args:
        job: whose configuration, folder and terminal are used.
        service: the evaluators.
        settings: theirs.
        num_layers: of the model.
    """

    def __init__(self, job: "SearchJob", service: Service, settings: PruningEvaluatorSettings, num_layers: int) -> None:
        self._job, self._service, self._settings, self._num_layers = job, service, settings, num_layers
        self.config = job.config
        self.space = PruningSpace(job.config.space)
        self.goal = ObjectiveFunction(job.config.search.objective, self._keep)
        self.quality = ObjectiveFunction(job.config.search.objective, None)
        """Of sets of one size."""
        self.counts: dict[str, int] = {}

    @property
    def _keep(self) -> float | None:
        """What is to be kept, where one number has to speak of retention and size."""
        search = self.config.search
        return search.keep if search.algorithm == "tpe" and len(self.config.space.ratios) > 1 else None

    def explore(self, run: FinishedScore | None) -> list[TrialResult]:
        """Run all trials that the configuration asks for, and return them in order.

        Args:
            run: the statistics; None where the search needs no scores.

        Raises:
            InputError: the objective cannot be computed.
            RunError: no trial was finished, or the run is to stop.
        """
        base: Evaluation = self._service.call("evaluate", (), "search")
        if self.goal.of(base, 0.0) <= WORST:
            raise InputError(
                f"search.objective {self.goal.objective} cannot be computed: no task is one on which the whole model "
                "is above chance; take other tasks, more items, or retention_raw"
            )
        greedy = self.config.search.algorithm == "greedy"
        trials = self._greedy() if greedy or run is None else self._tune(self._scores(run))
        if all(trial.status == "error" for trial in trials):
            raise RunError(f"no trial was finished; the first failed with: {trials[0].error}")
        return trials + self._swaps(trials)

    def _scores(self, run: FinishedScore) -> dict[ScoreKey, LayerScores]:
        scores = statistics.all_scores(run, self.config.space, self.config.seed)
        if PERPLEXITY_DROP in self.config.space.metrics:
            whole: Evaluation = self._service.call("evaluate", (), "text")
            alone = self._service.map("evaluate", [((layer,), "text") for layer in range(self._num_layers)])
            # How many times the perplexity per byte is that of the whole model.
            ratio = 2 ** (np.array([outcome.bits_per_byte for outcome in alone]) - whole.bits_per_byte)
            scores[ScoreKey(PERPLEXITY_DROP)] = LayerScores(ratio)
        return scores

    def _tune(self, scores: Mapping[ScoreKey, LayerScores]) -> list[TrialResult]:
        search, rungs = self.config.search, len(self._settings.rungs)
        stops_early = search.algorithm == "tpe" and rungs > 1
        runner = PruningTrial(self._service.name, self.space, scores, self._num_layers, rungs, stops_early, self.goal)
        starts = [self.space.config(c) for c in self.space.starting_points()] if search.starting_points else []
        points = [self.space.config(c) for c in self.space.grid()] if search.algorithm == "grid" else starts
        plan = TrialPlan(
            algorithm=search.algorithm,
            space=self.space,
            points=points,
            metrics=("objective", "kept"),
            num_samples=search.num_samples,
            num_rungs=rungs,
            reduction_factor=2,
            concurrency=search.concurrency or self._service.size,
            seed=self.config.seed,
        )
        found = tune(
            self._job.context,
            runner,
            plan,
            callbacks=self.config.tracking.to_callbacks(self._job.context.folder.run_id),
        )
        return [self._tried(index, trial, scores, starts) for index, trial in enumerate(found)]

    def _tried(
        self,
        index: int,
        trial: Trial,
        scores: Mapping[ScoreKey, LayerScores],
        starts: Sequence[Mapping[str, Any]],
    ) -> TrialResult:
        candidate = self.space.candidate(trial.config)
        applied = scores[candidate.key(self._num_layers)].epsilon
        dropped = candidate.dropped(scores, self._num_layers)
        algorithm = self.config.search.algorithm
        origin = "starting point" if index < len(starts) and algorithm != "grid" else algorithm
        return self._row(f"{index:04d}", origin, _applied(candidate, applied), dropped, trial)

    def _row(
        self, trial_id: str, origin: str, candidate: PruningCandidate | None, dropped: tuple[int, ...], trial: Trial
    ) -> TrialResult:
        rung = trial.metrics.get("rung")
        if trial.error is not None or rung is None:
            message = first_line(RuntimeError((trial.error or "it reported nothing").strip().splitlines()[-1]))
            return TrialResult(trial_id, origin, candidate, dropped, None, math.nan, None, 0.0, "error", message)
        outcome: Evaluation = self._service.call("evaluate", dropped, "search", rung)
        # By now it was only read; what it took is the trial's.
        outcome = replace(outcome, seconds=trial.metrics.get("time_total_s", outcome.seconds))
        above = self.config.search.objective == "retention_above_chance"
        kept = (outcome.above_chance if above else outcome.raw).value
        rungs = self._settings.rungs
        status = "done" if rung == len(rungs) else "stopped"
        return TrialResult(
            trial_id,
            origin,
            candidate,
            dropped,
            outcome,
            kept,
            trial.metrics["objective"],
            rungs[rung - 1],
            status,
        )

    def _greedy(self) -> list[TrialResult]:
        most = max(num_dropped(ratio, self._num_layers) for ratio in self.config.space.ratios)
        tries = sum(self._num_layers - done for done in range(most))
        with self._job.context.progress("greedy", tries, 0, "sets") as bar:
            sets = greedy_sets(
                self._service,
                self._num_layers,
                most=most,
                judge=self._judge,
                num_slices=1,
                on_progress=bar.add,
            )
        self.counts["greedy_tries"] = tries
        return self._walked(sets, "greedy", 0)

    def _swaps(self, trials: Sequence[TrialResult]) -> list[TrialResult]:
        budget = self.config.search.swaps
        best = choose(pareto_front(trials), self.config.search.keep)
        if not budget or best is None:
            return []
        with self._job.context.progress("swaps", budget, 0, "swaps") as bar:
            sets = swap_layers(
                self._service,
                best.dropped,
                self._num_layers,
                budget=budget,
                judge=self._judge,
                seed=self.config.seed,
                on_progress=bar.add,
            )
        self.counts |= {"swaps_tried": bar.done, "swaps_taken": len(sets)}
        return self._walked(sets, "swap", len(trials))

    def _walked(self, sets: Sequence[tuple[int, ...]], origin: str, first: int) -> list[TrialResult]:
        rows = []
        for index, dropped in enumerate(sets):
            outcome: Evaluation = self._service.call("evaluate", dropped, "search")
            objective = self.goal.of(outcome, len(dropped) / self._num_layers)
            ended = Trial({}, {"rung": len(self._settings.rungs), "objective": objective}, None)
            rows.append(self._row(f"{first + index:04d}", origin, None, dropped, ended))
        return rows

    def _judge(self, outcome: Evaluation) -> float:
        return self.quality.of(outcome, len(outcome.dropped) / self._num_layers)


def _applied(candidate: PruningCandidate, epsilon: float | None) -> PruningCandidate:
    """Return the candidate with the threshold as it was applied."""
    return candidate if epsilon is None else replace(candidate, epsilon=epsilon)
