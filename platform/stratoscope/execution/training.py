"""Distributed training by Ray Train: restarts lost workers and resumes from the last checkpoint."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.tune
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group

from stratoscope.errors import RunError
from stratoscope.execution.connection import missing_resources, on_driver_node
from stratoscope.execution.failures import root_cause, start_again
from stratoscope.phases import phase
from stratoscope.results import Storage

logger = logging.getLogger(__name__)

POLL_S = 0.5
STOPPED = (
    "stopped by SIGTERM during training; repeat the command with the same run_id to resume from the last checkpoint"
)
RESTARTS = 3
"""Restarts of all workers after one is lost."""


@dataclass(frozen=True)
class WorkerResources:
    """Number and resources of training workers."""

    number: int
    cpus: int
    """CPUs of each worker."""
    gpus: float
    """GPUs of each worker."""


StepMetrics = dict[str, float]
StepCallback = Callable[[StepMetrics], None]
"""Receives the metrics of a finished step."""


class WorkerHost:
    """Interface between a training loop and the worker of Ray Train that runs it.

    Args:
        relay: actor handle of a `_ProgressRelay`; None if the driver does not follow the steps.
    """

    def __init__(self, relay: Any) -> None:
        self.rank = ray.train.get_context().get_world_rank()
        self._relay = relay
        self._pending: Any = None
        """Last request for the stop signal."""

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the folder of the last checkpoint, or None if there is none."""
        last = ray.train.get_checkpoint()
        if last is None:
            yield None
            return
        with last.as_directory() as folder:
            yield Path(folder)

    def report(self, metrics: dict[str, float], folder: Path | None) -> None:
        """Report metrics and a checkpoint to Ray Train; waits for all workers."""
        ray.train.report(metrics, checkpoint=None if folder is None else Checkpoint.from_directory(folder))

    def note(self, row: StepMetrics) -> None:
        """Send the metrics of a finished step to the driver."""
        if self._relay is not None:
            self._relay.note.remote(row)

    def stopping(self) -> bool:
        """Return whether the run is known to be stopping, without waiting for an answer."""
        if self._relay is None:
            return False
        if self._pending is not None and not ray.wait([self._pending], timeout=0)[0]:
            return False
        stop = self._pending is not None and bool(ray.get(self._pending))
        self._pending = self._relay.stopping.remote()
        return stop


class _ProgressRelay:
    """Relays step metrics from the workers to the driver, and the stop signal back."""

    def __init__(self) -> None:
        self._steps: list[StepMetrics] = []
        self._stop = False

    def note(self, row: StepMetrics) -> None:
        self._steps.append(row)

    def drain(self, stop: bool) -> list[StepMetrics]:
        self._stop = self._stop or stop
        steps, self._steps = self._steps, []
        return steps

    def stopping(self) -> bool:
        return self._stop


def fit(
    work: Callable[[WorkerHost], None],
    workers: WorkerResources,
    storage: Storage,
    name: str,
    *,
    on_step: StepCallback = lambda _row: None,
    stopping: threading.Event | None = None,
) -> Checkpoint | None:
    """Train, or resume from the last checkpoint of the same name, and return the last checkpoint, if any.

    Args:
        work: training loop that runs on every worker.
        workers: number and resources of the workers.
        storage: folder for checkpoints.
        name: name of this training in the folder.
        on_step: receives the metrics of every step, in a thread of its own.
        stopping: event that ends training with a checkpoint once it is set.

    Raises:
        RunError: the run is stopping, or the workers failed more often than `RESTARTS`.
    """
    relay: Any = ray.remote(_ProgressRelay).options(num_cpus=0, scheduling_strategy=on_driver_node()).remote()
    steps = _Steps(workers)

    def count(row: StepMetrics) -> None:
        steps.count(row)
        on_step(row)

    try:
        with (
            _relay_progress(relay, count, stopping),
            phase(f"training {name}", status=steps.status, extent=steps.extent),
        ):
            result = start_again(lambda: _trainer(work, workers, storage, name, relay=relay).fit())
    except RunError:
        raise
    except Exception as error:
        raise RunError(f"training {name} failed: {root_cause(error)}") from error
    finally:
        ray.kill(relay)
    if stopping is not None and stopping.is_set():
        raise RunError(STOPPED)
    return result.checkpoint


class _Steps:
    """The last step of a training, for its phase."""

    def __init__(self, workers: WorkerResources) -> None:
        self._workers = workers
        self._last: float | None = None

    def count(self, row: StepMetrics) -> None:
        """Record the metrics of a finished step."""
        self._last = row.get("step", 0.0)

    def status(self) -> str:
        """Return what the training waits for before its first step."""
        if self._last is not None:
            return ""
        missing = missing_resources(self._workers.cpus, self._workers.gpus)
        return missing or f"{self._workers.number} workers start and load the model"

    def extent(self) -> str:
        """Return the number of the last step."""
        return "" if self._last is None else f"step {self._last:.0f}"


class PlacementGroupTracker:
    """Tracks placement groups so that the resources of a stopped trial are released.

    Ray Tune stops a trial by killing it, but the placement group of its workers stays reserved. The helper of Ray Train
    that should remove it queries the dashboard, and gives up if the dashboard does not answer.
    """

    def __init__(self) -> None:
        self.register: Any = ray.remote(_PlacementGroups).options(num_cpus=0).remote()

    def free(self, trial_id: str) -> None:
        """Remove the placement groups of a finished trial, if they still exist."""
        for group in ray.get(self.register.pop.remote(trial_id)):
            remove_placement_group(group)


class _PlacementGroups:
    def __init__(self) -> None:
        self._groups: dict[str, list[PlacementGroup]] = {}

    def add(self, trial_id: str, group: PlacementGroup) -> None:
        self._groups.setdefault(trial_id, []).append(group)

    def pop(self, trial_id: str) -> list[PlacementGroup]:
        return self._groups.pop(trial_id, [])


def fit_in_trial(
    work: Callable[[WorkerHost], None], workers: WorkerResources, storage: Storage, name: str, register: Any
) -> None:
    """Train inside a trial of Ray Tune, which receives every report.

    Args:
        work: training loop that runs on every worker.
        workers: number and resources of the workers.
        storage: folder for checkpoints.
        name: name of the trial's point in the search space.
        register: attribute `register` of the `PlacementGroupTracker`.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    trial_id = ray.tune.get_context().get_trial_id()

    def registered(host: WorkerHost) -> None:
        group = get_current_placement_group()
        if host.rank == 0 and group is not None:
            ray.get(register.add.remote(trial_id, group))
        work(host)

    # Several trials may have the same point.
    name = f"{name}-{trial_id}"
    _trainer(registered, workers, storage, name, callbacks=[TuneReportCallback()]).fit()  # type: ignore[no-untyped-call]


def _trainer(
    work: Callable[[WorkerHost], None],
    workers: WorkerResources,
    storage: Storage,
    name: str,
    *,
    relay: Any = None,
    callbacks: list[Any] | None = None,
) -> TorchTrainer:
    filesystem, path = storage.arrow()
    return TorchTrainer(
        lambda _config: work(WorkerHost(relay)),
        train_loop_config={},
        scaling_config=ScalingConfig(
            num_workers=workers.number,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=callbacks or [],
        ),
    )


@contextmanager
def _relay_progress(relay: Any, on_step: StepCallback, stopping: threading.Event | None) -> Iterator[None]:
    """Pass step metrics to the callback and the stop signal to the relay, while the block runs."""
    done = threading.Event()

    def follow() -> None:
        while True:
            last = done.wait(POLL_S)
            for row in ray.get(relay.drain.remote(stopping is not None and stopping.is_set())):
                try:
                    on_step(row)
                except Exception:
                    # The stop signal has to be relayed even if a callback fails.
                    logger.exception("the metrics of step %s could not be recorded", row.get("step"))
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
