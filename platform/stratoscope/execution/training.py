"""Training on several workers, by Ray Train: started, restarted after a loss, resumed from the last checkpoint."""

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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stratoscope.errors import RunError
from stratoscope.execution.failures import root_cause
from stratoscope.results import Storage

logger = logging.getLogger(__name__)

POLL_S = 0.5
STOPPED = "stopped by SIGTERM during training; the same run_id goes on from its last checkpoint"
RESTARTS = 3
"""Of the workers, together, when one is lost."""


@dataclass(frozen=True)
class WorkerResources:
    """Who trains."""

    number: int
    cpus: int
    gpus: float


StepMetrics = dict[str, float]
StepCallback = Callable[[StepMetrics], None]
"""Is told of a step that was made."""


class WorkerHost:
    """What a worker of Ray Train trains in."""

    def __init__(self, board: Any) -> None:
        self.rank = ray.train.get_context().get_world_rank()
        self._board = board
        self._asked: Any = None

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        """Yield the folder of the last checkpoint, or None where there is none."""
        last = ray.train.get_checkpoint()
        if last is None:
            yield None
            return
        with last.as_directory() as folder:
            yield Path(folder)

    def report(self, metrics: dict[str, float], folder: Path | None) -> None:
        """Tell metrics and keep a checkpoint; waits for all workers."""
        ray.train.report(metrics, checkpoint=None if folder is None else Checkpoint.from_directory(folder))

    def note(self, row: StepMetrics) -> None:
        """Tell of a step that was made."""
        if self._board is not None:
            self._board.note.remote(row)

    def stopping(self) -> bool:
        """Tell whether the run is to stop, as far as is known without waiting."""
        if self._board is None:
            return False
        if self._asked is not None and not ray.wait([self._asked], timeout=0)[0]:
            return False
        stop = self._asked is not None and bool(ray.get(self._asked))
        self._asked = self._board.stopping.remote()
        return stop


class _ProgressRelay:
    """Carries notes from the workers to the driver, and the wish to stop back."""

    def __init__(self) -> None:
        self._notes: list[StepMetrics] = []
        self._stop = False

    def note(self, row: StepMetrics) -> None:
        self._notes.append(row)

    def drain(self, stop: bool) -> list[StepMetrics]:
        self._stop = self._stop or stop
        notes, self._notes = self._notes, []
        return notes

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
    """Train, or go on from the last checkpoint of the same name, and return the last checkpoint, if one was kept.

    Args:
        work: runs on every worker.
        workers: how many, and with what.
        storage: where checkpoints are kept.
        name: of this training in it.
        on_step: is told of every step, in a thread of its own.
        stopping: once it is set, a checkpoint is written and training ends.

    Raises:
        RunError: the run is to stop, or the workers failed more often than `RESTARTS`.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(_ProgressRelay).options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        with _relay_progress(board, on_step, stopping):
            result = _trainer(work, workers, storage, name, board=board).fit()
    except Exception as error:
        raise RunError(f"training {name} failed: {root_cause(error)}") from error
    finally:
        ray.kill(board)
    if stopping is not None and stopping.is_set():
        raise RunError(STOPPED)
    return result.checkpoint


class PlacementGroupTracker:
    """Where the workers of trials stand, so that this is free again when a trial is stopped.

    Tune stops a trial by killing it, and what it had reserved for its workers stays reserved: the helper of Ray Train
    that is to free it asks the dashboard, and gives up where that does not answer.
    """

    def __init__(self) -> None:
        self.register: Any = ray.remote(_PlacementGroups).options(num_cpus=0).remote()

    def free(self, trial_id: str) -> None:
        """Free what the workers of a trial that has ended stood in, if it is not free yet."""
        for group in ray.get(self.register.left_by.remote(trial_id)):
            remove_placement_group(group)


class _PlacementGroups:
    def __init__(self) -> None:
        self._groups: dict[str, list[PlacementGroup]] = {}

    def take(self, trial_id: str, group: PlacementGroup) -> None:
        self._groups.setdefault(trial_id, []).append(group)

    def left_by(self, trial_id: str) -> list[PlacementGroup]:
        return self._groups.pop(trial_id, [])


def fit_in_trial(
    work: Callable[[WorkerHost], None], workers: WorkerResources, storage: Storage, name: str, register: Any
) -> None:
    """Train inside a trial of Ray Tune, which is told of every report.

    Args:
        work: runs on every worker.
        workers: how many, and with what.
        storage: where checkpoints are kept.
        name: of the trial's point.
        register: of the `PlacementGroupTracker`.
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    trial_id = ray.tune.get_context().get_trial_id()

    def registered(host: WorkerHost) -> None:
        group = get_current_placement_group()
        if host.rank == 0 and group is not None:
            ray.get(register.take.remote(trial_id, group))
        work(host)

    # Two trials may try the same point.
    name = f"{name}-{trial_id}"
    _trainer(registered, workers, storage, name, callbacks=[TuneReportCallback()]).fit()  # type: ignore[no-untyped-call]


def _trainer(
    work: Callable[[WorkerHost], None],
    workers: WorkerResources,
    storage: Storage,
    name: str,
    *,
    board: Any = None,
    callbacks: list[Any] | None = None,
) -> TorchTrainer:
    filesystem, path = storage.arrow()
    return TorchTrainer(
        lambda _config: work(WorkerHost(board)),
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
def _relay_progress(board: Any, on_step: StepCallback, stopping: threading.Event | None) -> Iterator[None]:
    """Pass notes on and tell the board to stop, while the block runs."""
    ended = threading.Event()

    def follow() -> None:
        while True:
            last = ended.wait(POLL_S)
            for note in ray.get(board.drain.remote(stopping is not None and stopping.is_set())):
                try:
                    on_step(note)
                except Exception:
                    # The wish to stop has to be passed on whatever becomes of a note.
                    logger.exception("a note of step %s was lost", note.get("step"))
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True, name="following")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def run_remote(function: Callable[..., Any], *args: Any, cpus: int = 1) -> Any:
    """Call a function in a process of its own somewhere in the cluster and return what it returns.

    Raises:
        RunError: it failed.
    """
    try:
        return ray.get(ray.remote(function).options(num_cpus=cpus).remote(*args))
    except Exception as error:
        raise RunError(root_cause(error)) from error
