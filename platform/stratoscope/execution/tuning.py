"""Trials of a search, by Ray Tune: suggested, stopped early, restored after a kill."""

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
"""Between two snapshots of the search's state."""
NAME = "trials"
TRIAL: dict[str, float] = {"cpu": 0, "memory": 2**29}
"""What a trial's process takes. It bounds how many start at once where a restored search has many to begin again."""
POINT = "point"
ORDINAL = re.compile(r"run_[0-9a-f]+(?:_\d{5})?_(\d+)_")
"""In the name of a trial's folder."""
STOPPED = "stopped by SIGTERM during the search; the same run_id goes on from there"
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the other kind prints tables, whatever the verbosity
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupted search is not a finished one
}


@dataclass(frozen=True)
class TrialPlan:
    """How trials are chosen."""

    algorithm: str
    """tpe, nsga2 or grid."""
    space: Callable[[Any], None]
    """Define-by-run space of Optuna."""
    points: Sequence[Mapping[str, Any]]
    """Of grid all, otherwise those to begin with."""
    metrics: Sequence[str]
    """What a trial reports; all but the first are to be small."""
    num_samples: int
    num_rungs: int
    reduction_factor: int
    concurrency: int
    seed: int
    reuse: bool = True
    """Run one trial after another in the same process."""


@dataclass(frozen=True)
class Trial:
    """How a trial ended."""

    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    """The last that it reported; empty if it failed before."""
    error: str | None


def run_trials(
    trial: Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]],
    plan: TrialPlan,
    storage: Storage,
    *,
    callbacks: Sequence[tune.Callback] = (),
    on_end: Callable[[str], None] = lambda _trial_id: None,
    stopping: threading.Event | None = None,
) -> list[Trial]:
    """Run the trials that are not done yet, and return all of them, in the order in which they were begun.

    Args:
        trial: yields what to report, rung by rung; it runs in a process of its own.
        plan: how trials are chosen.
        storage: where Tune keeps its state and logs.
        callbacks: further loggers of Tune.
        on_end: called with the trial's id whenever one ends.
        stopping: once it is set, what runs is given up, to be begun again when the search is restored.

    Raises:
        RunError: the run is to stop.
    """
    if stopping is not None and stopping.is_set():
        raise RunError(STOPPED)
    os.environ.update(QUIET)
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", SNAPSHOT_S)
    expected = len(plan.points) if plan.algorithm == "grid" else plan.num_samples
    if not _restorable(storage):
        storage.remove(NAME)
    with _telling(on_end), _interrupted_by(stopping):
        results = _tuner(trial, plan, storage, callbacks).fit()
        if len(results) != expected and not (stopping is not None and stopping.is_set()):
            # What Tune cannot restore it begins anew, and forgets how many trials there were to be.
            storage.remove(NAME)
            results = _tuner(trial, plan, storage, callbacks).fit()
    if stopping is not None and stopping.is_set():
        raise RunError(STOPPED)
    ended = sorted((results[i] for i in range(len(results))), key=_ordinal)
    return [_ended(result) for result in ended]


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
            callbacks=[_Ends(), *callbacks],
        ),
    )


def _restorable(storage: Storage) -> bool:
    """Tell whether Tune's state of an earlier run is whole: it is copied over an older one, not renamed into place."""
    states = [name for name in storage.names(NAME) if name.startswith("experiment_state")]
    try:
        return bool(states) and bool(json.loads(storage.read(f"{NAME}/{states[-1]}")))
    except ValueError:
        return False


def _ordinal(result: Any) -> int:
    """Return which trial it is, counted from the first that was begun; a restored search lists them otherwise."""
    found = ORDINAL.match(posixpath.basename(result.path))
    return int(found[1]) if found else sys.maxsize


def _ended(result: Any) -> Trial:
    config = result.config or {}
    error = None if result.error is None else str(result.error)
    return Trial(config.get(POINT, config), result.metrics or {}, error)


def mlflow_callback(tracking_uri: str, experiment: str, run_id: str) -> tune.Callback:
    """Return the logger that sends trials to MLflow, each tagged with the run."""
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
    several = plan.algorithm == "nsga2"
    generation = max(4, min(50, plan.num_samples // 4))
    return OptunaSearch(
        plan.space,
        metric=list(plan.metrics) if several else plan.metrics[0],
        mode=["max", *["min"] * (len(plan.metrics) - 1)] if several else "max",
        points_to_evaluate=[dict(point) for point in plan.points][: plan.num_samples],
        sampler=(
            optuna.samplers.NSGAIISampler(population_size=generation, seed=plan.seed)
            if several
            else optuna.samplers.TPESampler(seed=plan.seed)
        ),
    )


def _scheduler(plan: TrialPlan) -> TrialScheduler:
    if plan.algorithm != "tpe" or plan.num_rungs == 1:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return ASHAScheduler(
        time_attr="training_iteration",
        metric=plan.metrics[0],
        mode="max",
        max_t=plan.num_rungs,
        grace_period=1,
        reduction_factor=plan.reduction_factor,
    )


_on_end: list[Callable[[str], None]] = []


@contextmanager
def _telling(on_end: Callable[[str], None]) -> Iterator[None]:
    _on_end.append(on_end)
    try:
        yield
    finally:
        _on_end.remove(on_end)


class _Ends(tune.Callback):
    """Tells whoever waits in this process that a trial ended. Tune keeps it with its state, so it holds nothing."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:  # noqa: ARG002
        """Tell it."""
        for tell in _on_end:
            tell(trial.trial_id)

    on_trial_error = on_trial_complete


@contextmanager
def _interrupted_by(stopping: threading.Event | None) -> Iterator[None]:
    """Let Tune take its snapshot and end once the event is set; SIGUSR1 is what it listens to while it runs."""
    ended = threading.Event()

    def watch(event: threading.Event) -> None:
        while not event.wait(0.5):
            if ended.is_set():
                return
        while not ended.wait(1.0):
            os.kill(os.getpid(), signal.SIGUSR1)

    if stopping is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    # Until Tune sets its own, the signal must not end the process.
    earlier = signal.signal(signal.SIGUSR1, lambda _signal, _frame: None)
    threading.Thread(target=watch, args=(stopping,), daemon=True, name="stopping").start()
    try:
        yield
    finally:
        ended.set()
        signal.signal(signal.SIGUSR1, earlier)
