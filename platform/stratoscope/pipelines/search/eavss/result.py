"""The results of trials: rows of the tables, the front, and the verdict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stratoscope.errors import last_line
from stratoscope.execution import Trial
from stratoscope.pipelines.hallucination.outcome import against_random
from stratoscope.pipelines.search.eavss.trial import read_outcomes
from stratoscope.scoring.definition_outcome import DefinitionOutcome
from stratoscope.scoring.definition_space import DefinitionCandidate, DefinitionSpace
from stratoscope.tables.eavss import DefinitionOutcomeRow, DefinitionTrialRow


@dataclass(frozen=True)
class DefinitionResult:
    """The result of a trial."""

    trial_id: str
    origin: str
    candidate: DefinitionCandidate
    epsilon: tuple[str, float]
    """Kind of the sparsity threshold, and its requested value."""
    objective: float
    """Objective; minus infinity where the trial failed."""
    outcomes: tuple[DefinitionOutcome, ...]
    """Results on the data sets that trials are compared on; none where the trial failed."""
    seconds: float | None
    error: str | None

    def mean(self, name: str) -> float | None:
        """Return the mean of a number over data sets; None where the trial failed."""
        return float(np.mean([getattr(o, name) for o in self.outcomes])) if self.outcomes else None

    def row(self) -> DefinitionTrialRow:
        """Return the row of `trials`."""
        candidate, (kind, requested) = self.candidate, self.epsilon
        return DefinitionTrialRow(
            trial_id=self.trial_id,
            target="eavss",
            origin=self.origin,
            tap=candidate.tap,
            metric=candidate.definition,
            part=candidate.part,
            variance=candidate.variance,
            epsilon_kind=kind,
            epsilon=self.outcomes[0].epsilon if self.outcomes else requested,
            propensity=candidate.propensity,
            level=candidate.level,
            objective=self.objective if self.outcomes else None,
            auroc=self.mean("auroc"),
            random=self.mean("random"),
            over_random=self.mean("over_random"),
            num_layers=self.mean("num_layers"),
            seconds=self.seconds,
            status="done" if self.outcomes else "error",
            error=self.error,
        )


def tuned_result(trial_id: str, origin: str, trial: Trial, space: DefinitionSpace) -> DefinitionResult:
    """Return the result of a trial of Ray Tune."""
    candidate = space.candidate(trial.config)
    reported = trial.metrics.get("outcomes") if trial.error is None else None
    return DefinitionResult(
        trial_id=trial_id,
        origin=origin,
        candidate=candidate,
        epsilon=space.epsilons[candidate.threshold],
        objective=float(trial.metrics["objective"]) if reported else float("-inf"),
        outcomes=tuple(read_outcomes(reported)) if reported else (),
        seconds=trial.metrics.get("time_total_s"),
        error=last_line(trial.error) if trial.error else None,
    )


def outcome_row(
    trial_id: str, role: Literal["chosen_on", "confirmed_on"], outcome: DefinitionOutcome
) -> DefinitionOutcomeRow:
    """Return the row of `outcomes` for a trial and a data set."""
    return DefinitionOutcomeRow(trial_id=trial_id, role=role, **vars(outcome))


def definition_front(results: Sequence[DefinitionResult]) -> list[DefinitionResult]:
    """Return the trials for which no other trial has a higher objective with at most as many layers."""
    sizes = [(result, result.mean("num_layers") or 0.0) for result in results if result.outcomes]
    return [
        result
        for result, size in sizes
        if not any(other <= size and o.objective > result.objective for o, other in sizes)
    ]


def verdicts(best: DefinitionResult, confirmed: Sequence[DefinitionOutcome], *, random_sets: int) -> Iterator[str]:
    """Yield sentences on the best trial: its candidate, and its results on each data set.

    Args:
        best: the best trial.
        confirmed: its results on data sets that trials never use.
        random_sets: number of random sets of layers.
    """
    candidate = best.candidate
    yield (
        f"Best of the trials: {candidate.definition} on tap {candidate.tap}, part {candidate.part}, variance "
        f"{candidate.variance}, propensity above {candidate.propensity:g}, level {candidate.level:g}."
    )
    for role, outcomes in (("chosen on", best.outcomes), ("confirmed on", confirmed)):
        for o in outcomes:
            comparison = against_random(o.over_random_low, o.over_random_high, o.detectable, o.num_layers, random_sets)
            yield (
                f"{o.dataset} ({role}): layers {' '.join(map(str, o.flagged_layers)) or 'none'}; AUROC {o.auroc:.3f} "
                f"({o.ci_low:.3f} to {o.ci_high:.3f}), {o.over_random:+.3f} ({o.over_random_low:+.3f} to "
                f"{o.over_random_high:+.3f}) against random sets: {comparison}."
            )
    if not confirmed:
        yield "The data sets that the choice was made on favour it; name others in thresholds.confirm_on."
