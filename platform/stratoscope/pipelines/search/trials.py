"""Plans of trials, for the searches of both targets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stratoscope.execution import TrialPlan
from stratoscope.pipelines.search.config import SearchSection

Suggestions = Iterable[Mapping[str, Any]]


def plan_trials(
    search: SearchSection,
    space: Callable[[Any], None],
    *,
    grid: Suggestions,
    starting_points: Suggestions,
    metrics: Sequence[str],
    num_rungs: int,
    concurrency: int,
    seed: int,
) -> TrialPlan:
    """Return the plan of a search's trials."""
    points = starting_points if search.starting_points else []
    return TrialPlan(
        algorithm=search.algorithm,
        space=space,
        points=list(grid if search.algorithm == "grid" else points),
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
