"""Plans of trials, for the searches of both targets."""

from collections.abc import Sequence
from typing import Any, Protocol

from stratoscope.execution import TrialPlan
from stratoscope.pipelines.search.config import SearchSection


class SearchSpace(Protocol):
    """A space of candidates that Optuna searches."""

    def __call__(self, trial: Any, /) -> None:
        """Suggest a candidate."""

    def config(self, candidate: Any, /) -> dict[str, Any]:
        """Return the suggestion that stands for a candidate."""

    def grid(self) -> Any:
        """Return every candidate."""

    def starting_points(self) -> Sequence[Any]:
        """Return the candidates to begin with."""


def plan_trials(
    search: SearchSection,
    space: SearchSpace,
    *,
    metrics: Sequence[str],
    num_rungs: int,
    concurrency: int,
    seed: int,
) -> TrialPlan:
    """Return the plan of a search's trials.

    Args:
        search: the configuration.
        space: the candidates.
        metrics: reported metrics; all but the first are minimised.
        num_rungs: number of reports of a trial that is not stopped.
        concurrency: number of concurrent trials.
        seed: seed of the search algorithm.
    """
    if search.algorithm == "grid":
        points = [space.config(candidate) for candidate in space.grid()]
    else:
        points = [space.config(candidate) for candidate in space.starting_points() if search.starting_points]
    return TrialPlan(
        algorithm=search.algorithm,
        space=space,
        points=points,
        metrics=metrics,
        num_samples=search.num_samples,
        num_rungs=num_rungs,
        reduction_factor=2,
        concurrency=concurrency,
        seed=seed,
    )


def trial_origin(index: int, plan: TrialPlan) -> str:
    """Return the origin of a trial: starting point, or the algorithm."""
    return "starting point" if plan.algorithm != "grid" and index < len(plan.points) else plan.algorithm
