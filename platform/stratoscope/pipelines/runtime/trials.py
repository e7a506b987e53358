"""Running the trials of a search for a job: with its progress, its sign of life and its loggers."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stratoscope.execution import Meter, Trial, TrialPlan, mlflow_callback, progress, run_trials

if TYPE_CHECKING:
    from stratoscope.pipelines.runtime.job import Job
    from stratoscope.pipelines.search.config import TrackingSection

TUNE = "tune"
"""Folder of what Ray Tune writes, in the run's."""


def tune(
    job: "Job[Any]",
    trial: Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]],
    plan: TrialPlan,
    *,
    folder: str = TUNE,
    title: str = "search",
    tracking: "TrackingSection | None" = None,
    on_end: Callable[[str], None] = lambda _trial_id: None,
) -> list[Trial]:
    """Run the trials that are not done yet, and return all of them (see `run_trials`).

    Args:
        job: whose folder, terminal and lease are used.
        trial: runs one.
        plan: how trials are chosen.
        folder: of what Ray Tune writes, in the run's.
        title: of the progress.
        tracking: where trials are logged besides.
        on_end: called with the trial's id whenever one ends.
    """
    total = len(plan.points) if plan.algorithm == "grid" else plan.num_samples
    meter = Meter(total, 0, "trials", "trials")
    callbacks = (
        [mlflow_callback(tracking.mlflow, tracking.mlflow_experiment, job.run.run_id)]
        if tracking and tracking.mlflow
        else []
    )
    with progress(meter, title, job.terminal.console) as bar:

        def ended(trial_id: str) -> None:
            on_end(trial_id)
            bar.add(1, 1)
            job.lease.tell(done=meter.done, total=total, errors=0, rate=meter.units_per_second)

        storage = job.run.storage.child(folder)
        return run_trials(trial, plan, storage, callbacks=callbacks, on_end=ended, stopping=job.stopping)
