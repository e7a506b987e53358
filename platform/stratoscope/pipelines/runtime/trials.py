"""Trials of Ray Tune within a run: with the run's progress, lease, stop signal and loggers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ray.tune import Callback

from stratoscope.execution import Trial, TrialPlan, run_trials
from stratoscope.pipelines.runtime.context import TUNE, RunContext


def tune(
    context: RunContext,
    trial: Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]],
    plan: TrialPlan,
    *,
    folder: str = TUNE,
    title: str = "search",
    callbacks: Sequence[Callback] = (),
    on_end: Callable[[str], None] = lambda _trial_id: None,
) -> list[Trial]:
    """Run the trials that are not finished yet, and return all of them (see `run_trials`).

    Args:
        context: the run that the trials belong to.
        trial: runs one trial.
        plan: how Ray Tune chooses the trials.
        folder: name of the folder in the run that Ray Tune writes to.
        title: label of the progress bar.
        callbacks: additional loggers of Ray Tune.
        on_end: called with the trial's id whenever a trial ends.
    """
    total = len(plan.points) if plan.algorithm == "grid" else plan.num_samples
    with context.progress(title, total, 0, "trials") as bar:

        def count_trial(trial_id: str) -> None:
            on_end(trial_id)
            bar.add()

        storage = context.storage.child(folder)
        return run_trials(trial, plan, storage, callbacks=callbacks, on_end=count_trial, stopping=context.stopping)
