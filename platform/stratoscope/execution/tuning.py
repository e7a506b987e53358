"""Trials of a search by Ray Tune: suggests them, stops them early, and restores them after a kill."""

import json
import os
import posixpath
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch

from stratoscope.errors import RunError
from stratoscope.results import Storage

SNAPSHOT_S = "2"
"""Seconds between two snapshots of the search's state."""
NAME = "trials"
TRIAL: dict[str, float] = {"cpu": 0, "memory": 2**29}
"""Resources of a trial's process. They bound how many trials a restored search restarts at once."""
POINT = "point"
RUNG = "rung"
"""Metric with the number of the rung that a report belongs to, from 1. A training that starts anew repeats rungs."""
ORDINAL = re.compile(r"run_[0-9a-f]+(?:_\d{5})?_(\d+)_")
"""Number of a trial in the name of its folder."""
STOPPED = "stopped by SIGTERM during the search; repeat the command with the same run_id to resume"
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints tables at any verbosity
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupted search must not count as finished
}


@dataclass(frozen=True)
class TrialPlan:
    """Settings of a search: its algorithm, space, metrics and budget."""

    algorithm: str
    """Search algorithm: tpe, nsga2 or grid."""
    space: Callable[[Any], None]
    """Define-by-run search space of Optuna."""
    points: Sequence[Mapping[str, Any]]
    """All points of a grid; otherwise the points to start with."""
    metrics: Sequence[str]
    """Metrics that a trial reports, besides `RUNG`. The first is maximised, the others are minimised."""
    num_samples: int
    """Number of trials, except for a grid."""
    num_rungs: int
    """Number of reports at which ASHA may stop a trial early."""
    reduction_factor: int
    """Factor by which ASHA reduces the number of trials at a rung."""
    concurrency: int
    """Number of concurrent trials."""
    seed: int
    reuse: bool = True
    """Whether consecutive trials share a process."""


@dataclass(frozen=True)
class Trial:
    """A finished or failed trial."""

    config: Mapping[str, Any]
    """Point in the search space."""
    metrics: Mapping[str, Any]
    """Last reported metrics; empty if the trial failed before its first report."""
    error: str | None
    """Error as text; None if the trial finished."""


def run_trials(
    trial: Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]],
    plan: TrialPlan,
    storage: Storage,
    *,
    callbacks: Sequence[tune.Callback] = (),
    on_end: Callable[[str], None] = lambda _trial_id: None,
    stopping: threading.Event | None = None,
) -> list[Trial]:
    """Run the trials that are not finished, and return all of them in the order in which they started.

    Args:
        trial: yields the metrics of each rung; runs in a process of its own.
        plan: settings of the search.
        storage: folder for Tune's state and logs.
        callbacks: further callbacks of Tune.
        on_end: called with the id of every trial that ends.
        stopping: event that abandons running trials once it is set; a restored search restarts them.

    Raises:
        RunError: the run is stopping.
    """
    if stopping is not None and stopping.is_set():
        raise RunError(STOPPED)
    os.environ.update(QUIET)
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", SNAPSHOT_S)
    expected = len(plan.points) if plan.algorithm == "grid" else plan.num_samples
    if not _restorable(storage):
        storage.remove(NAME)
    with _on_trial_end(on_end), _interrupted_by(stopping):
        results = _tuner(trial, plan, storage, callbacks).fit()
        if len(results) != expected and not (stopping is not None and stopping.is_set()):
            # Tune restarts trials that it cannot restore, but forgets how many there should be.
            storage.remove(NAME)
            results = _tuner(trial, plan, storage, callbacks).fit()
    if stopping is not None and stopping.is_set():
        raise RunError(STOPPED)
    return [_to_trial(result) for result in sorted((results[i] for i in range(len(results))), key=_ordinal)]


def _tuner(
    trial: Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]],
    plan: TrialPlan,
    storage: Storage,
    callbacks: Sequence[tune.Callback],
) -> tune.Tuner:
    filesystem, path = storage.arrow()
    trainable = tune.with_resources(_reporting(trial), TRIAL)
    if tune.Tuner.can_restore(f"{path}/{NAME}", storage_filesystem=filesystem):
        return tune.Tuner.restore(
            f"{path}/{NAME}", trainable=trainable, restart_errored=True, storage_filesystem=filesystem
        )
    return tune.Tuner(
        trainable,
        param_space=_grid(plan),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(plan),
            scheduler=_scheduler(plan),
            num_samples=1 if plan.algorithm == "grid" else plan.num_samples,
            max_concurrent_trials=plan.concurrency,
            reuse_actors=plan.reuse,
        ),
        run_config=tune.RunConfig(
            name=NAME,
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[_TrialEndCallback(), *callbacks],
        ),
    )


def _restorable(storage: Storage) -> bool:
    """Return whether Tune's state can be read: a kill while Tune overwrites it leaves part of a file."""
    states = [name for name in storage.names(NAME) if name.startswith("experiment_state")]
    try:
        return bool(states) and bool(json.loads(storage.read(f"{NAME}/{states[-1]}")))
    except ValueError:
        return False


def _ordinal(result: Any) -> int:
    """Return the number of a trial in the order of starts; a restored search lists trials in another order."""
    match = ORDINAL.match(posixpath.basename(result.path))
    return int(match[1]) if match else sys.maxsize


def _to_trial(result: Any) -> Trial:
    config = result.config or {}
    error = None if result.error is None else str(result.error)
    return Trial(config.get(POINT, config), result.metrics or {}, error)


def mlflow_callback(tracking_uri: str, experiment: str, run_id: str) -> tune.Callback:
    """Return the callback that logs trials to MLflow, tagged with the run."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(
        tracking_uri=tracking_uri, experiment_name=experiment, tags={"stratoscope.run_id": run_id}
    )


def _reporting(
    trial: Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]],
) -> Callable[[dict[str, Any]], None]:
    def run(config: dict[str, Any]) -> None:
        for metrics in trial(config.get(POINT, config)):
            tune.report(dict(metrics))

    return run


def _grid(plan: TrialPlan) -> dict[str, Any]:
    if plan.algorithm != "grid":
        return {}
    return {POINT: tune.grid_search([dict(point) for point in plan.points])}


def _searcher(plan: TrialPlan) -> Searcher | SearchAlgorithm:
    import optuna

    if plan.algorithm == "grid":
        return BasicVariantGenerator(max_concurrent=plan.concurrency, random_state=plan.seed)
    multi_objective = plan.algorithm == "nsga2"
    generation = max(4, min(50, plan.num_samples // 4))
    return OptunaSearch(
        plan.space,
        metric=list(plan.metrics) if multi_objective else plan.metrics[0],
        mode=["max", *["min"] * (len(plan.metrics) - 1)] if multi_objective else "max",
        points_to_evaluate=[dict(point) for point in plan.points][: plan.num_samples],
        sampler=(
            optuna.samplers.NSGAIISampler(population_size=generation, seed=plan.seed)
            if multi_objective
            else optuna.samplers.TPESampler(seed=plan.seed)
        ),
    )


def _scheduler(plan: TrialPlan) -> TrialScheduler:
    if plan.algorithm != "tpe" or plan.num_rungs == 1:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return ASHAScheduler(
        time_attr=RUNG,
        metric=plan.metrics[0],
        mode="max",
        max_t=plan.num_rungs,
        grace_period=1,
        reduction_factor=plan.reduction_factor,
    )


_end_listeners: list[Callable[[str], None]] = []


@contextmanager
def _on_trial_end(listener: Callable[[str], None]) -> Iterator[None]:
    """Call a function with the id of every trial that ends while the block runs."""
    _end_listeners.append(listener)
    try:
        yield
    finally:
        _end_listeners.remove(listener)


class _TrialEndCallback(tune.Callback):
    """Calls the listeners of this process when a trial ends. Tune pickles it, so it has no attributes."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:  # noqa: ARG002
        """Call the listeners."""
        for listener in _end_listeners:
            listener(trial.trial_id)

    on_trial_error = on_trial_complete


@contextmanager
def _interrupted_by(stopping: threading.Event | None) -> Iterator[None]:
    """Make Tune take a snapshot and end once the event is set, by SIGUSR1, which it handles while it runs."""
    done = threading.Event()

    def watch(event: threading.Event) -> None:
        while not done.wait(0.2):
            if event.is_set():
                break
        while not done.wait(1.0):
            os.kill(os.getpid(), signal.SIGUSR1)

    if stopping is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    # Until Tune installs its handler, the signal must not end the process.
    previous = signal.signal(signal.SIGUSR1, lambda _signal, _frame: None)
    thread = threading.Thread(target=watch, args=(stopping,), daemon=True, name="stopping")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, previous)
