"""Shards of work, run on an actor pool by Ray Data."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from stratoscope.errors import InputError, RunError, type_and_message
from stratoscope.execution.attempts import (
    DEATHS_WHILE_LOADING,
    Attempt,
    AttemptTracker,
    BrokenProcessError,
    StoppedError,
)
from stratoscope.execution.connection import missing_resources, on_driver_node, resources
from stratoscope.execution.failures import late_start_error, started_late
from stratoscope.execution.pool import ActorPool
from stratoscope.phases import phase
from stratoscope.results import ShardResult, ShardStore, StoreOffer

NO_PROGRESS_TIMEOUT_S = 3 * 3600.0
"""Longest wait for a shard or an actor. GPU nodes may take 40 minutes to start, and large models are slow per shard."""
REFUSED = "refused"
"""Key under which an actor returns, in place of a shard's counts, why the worker refused its input."""
STOP_POLL_S = 0.2
STATUS_TIMEOUT_S = 2.0
"""Longest wait for the state of the actors, which is only needed for display."""
UNWRITTEN = "unwritten"
"""Key under which an actor returns, in place of a shard's counts, why it could not store the result."""
EXIT_BROKEN = 70
"""Exit code of an actor whose process is broken (see `BrokenProcessError`)."""
Prepare = Callable[[dict[str, Any]], dict[str, Any]]
"""Maps the columns of a shard's row, as a pure function."""


class ShardWorker(Protocol):
    """A pure function of a shard, constructed once per actor and called from several threads."""

    def __call__(self, shard: dict[str, Any], attempt: Attempt, /) -> ShardResult:
        """Compute one shard, given as the columns of its row."""


@runtime_checkable
class TunedWorker(ShardWorker, Protocol):
    """A worker that measures, on its device, what all workers of a run must share."""

    def tune(self) -> dict[str, Any]:
        """Measure it."""

    def adopt(self, tuning: dict[str, Any], /) -> None:
        """Use what the first worker has measured."""


class _ShardActor:
    """Maps rows that describe shards to rows that hold their results.

    A result is one row, whatever its size, so Ray may move and regroup blocks. An actor that sees the run's files
    stores its results itself, and returns the counts alone.
    """

    def __init__(self, make_worker: Callable[[], ShardWorker], tracker: Any, offer: StoreOffer | None) -> None:
        self._tracker = tracker
        self._store = ShardStore.accept(offer) if offer else None
        actor = ray.get_runtime_context().get_actor_id()
        deaths = ray.get(tracker.load.remote(actor))
        if deaths > DEATHS_WHILE_LOADING:
            raise RuntimeError(f"an actor died {deaths} times while it loaded, most likely because memory ran out")
        self._worker = make_worker()
        if isinstance(self._worker, TunedWorker):
            tuning = ray.get(tracker.agreed.remote())
            self._worker.adopt(tuning or ray.get(tracker.agree.remote(self._worker.tune())))
        ray.get(tracker.ready.remote(actor))

    def __call__(self, batch: pa.Table) -> pa.Table:
        results = [result for row in batch.to_pylist() if (result := self._run(row)) is not None]
        return pa.table(
            {
                "shard": pa.array([r.shard for r in results], pa.int64()),
                "counts": pa.array([json.dumps(r.counts) for r in results], pa.string()),
                "names": pa.array([list(r.files) for r in results], pa.list_(pa.string())),
                "contents": pa.array([list(r.files.values()) for r in results], pa.list_(pa.large_binary())),
                "stored": pa.array([r.stored for r in results], pa.bool_()),
            }
        )

    def _run(self, row: dict[str, Any]) -> ShardResult | None:
        shard = row["shard"]
        attempt = ray.get(self._tracker.begin.remote(shard))
        if attempt is None:
            return None
        try:
            number, crashes = attempt
            result = self._worker(row, Attempt(number, crashes, _BatchNotes(self._tracker, shard, number)))
        except StoppedError:
            return None
        except InputError as error:
            # Ray would pass on only the traceback.
            return ShardResult(shard, {}, {REFUSED: str(error)})
        except BrokenProcessError:
            os._exit(EXIT_BROKEN)
        if self._store is not None:
            try:
                self._store.write(result)
            except OSError as error:
                return ShardResult(shard, {}, {UNWRITTEN: type_and_message(error)})
            result = ShardResult(shard, {}, result.counts, stored=True)
        ray.get(self._tracker.finish.remote(shard))
        return result


class _BatchNotes:
    """Records the batches of an attempt with the tracker.

    The first note waits for its answer, which may be that the run is stopping. Further notes of a first attempt are
    sent without waiting, so that the device is not kept waiting either. After a crash every note waits, because the
    last one then names the batch at fault.
    """

    def __init__(self, tracker: Any, shard: int, attempt: int) -> None:
        self._tracker, self._shard, self._attempt = tracker, shard, attempt
        self._first = True

    def __call__(self, units: Sequence[int]) -> None:
        answer = self._tracker.note.remote(self._shard, list(units))
        if (self._first or self._attempt > 1) and not ray.get(answer):
            raise StoppedError
        self._first = False


def _tasks_in_flight(pool: ActorPool, num_shards: int) -> int | None:
    """Return 1 if the first ready actor would otherwise take the shards of actors that are still loading; else None.

    A pool that may grow does so only if it sees a queue, and a queue does no harm if there are many shards.
    """
    may_grow = pool.initial_size < pool.max_size
    return None if may_grow or num_shards >= 8 * pool.max_size else 1


def run_shards(
    shards: Sequence[pa.Table],
    make_worker: Callable[[], ShardWorker],
    pool: ActorPool,
    name: str,
    *,
    prepare: Prepare | None = None,
    store: ShardStore | None = None,
    stopping: threading.Event | None = None,
) -> Iterator[ShardResult]:
    """Run every shard once on a pool of actors and yield the results as they come.

    An actor whose process dies is restarted, and its shards run again (see `Attempt`).

    Args:
        shards: tables of one row each, whose columns the worker gets. They are read one by one into the object store.
        make_worker: constructs the worker inside each actor.
        pool: size and resources of the pool.
        name: name of the actors on the dashboard.
        prepare: maps the columns of each shard in tasks of one CPU, ahead of the actors, if the cluster has CPUs left.
        store: where actors that see its files store the results; None brings all results to the driver.
        stopping: event that lets started shards finish and starts no other once it is set.

    Raises:
        InputError: a worker refused its input.
        RunError: an actor could not store a result.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    tracker = ray.remote(AttemptTracker).options(num_cpus=0, scheduling_strategy=on_driver_node()).remote()
    offer = store.offer() if store is not None else None

    def make_dataset() -> Any:
        # from_blocks reads each table here; from_arrow would start a task for it and wait for a CPU of the cluster.
        dataset: Any = ray.data.from_blocks(shards)  # type: ignore[arg-type]
        if prepare is not None and _has_spare_cpus(pool):
            dataset = _prepare_shards(dataset, prepare)
        return _map_shards(dataset, make_worker, pool, name, (tracker, offer), num_shards=len(shards))

    with _relay_stop(stopping, tracker), phase("", status=lambda: _pool_status(tracker, pool)):
        for batch in _result_batches(make_dataset):
            for row in batch.to_pylist():
                files, counts = dict(zip(row["names"], row["contents"], strict=True)), json.loads(row["counts"])
                if REFUSED in counts:
                    raise InputError(counts[REFUSED])
                if UNWRITTEN in counts:
                    raise RunError(f"shard {row['shard']} could not be stored: {counts[UNWRITTEN]}")
                yield ShardResult(row["shard"], files, counts, row["stored"])


def _has_spare_cpus(pool: ActorPool) -> bool:
    """Return whether a CPU for tasks is left beside all actors; without one, tasks would wait forever."""
    return resources().get("CPU", 0) >= pool.max_size * pool.num_cpus + 1


def _prepare_shards(dataset: Any, prepare: Prepare) -> Any:
    """Return the dataset with its rows prepared in tasks."""
    # Ray Data does not fuse tasks with actors whose resources differ.
    return dataset.map_batches(partial(_prepare, prepare), batch_size=1, batch_format="pyarrow", num_cpus=1, memory=1)


def _prepare(prepare: Prepare, batch: pa.Table) -> pa.Table:
    return pa.Table.from_pylist([prepare(row) for row in batch.to_pylist()])


def _pool_status(tracker: Any, pool: ActorPool) -> str:
    """Return what the actors of a pool wait for or do."""
    loading, started = ray.get(tracker.state.remote(), timeout=STATUS_TIMEOUT_S)
    if started:
        return "computing"
    if loading:
        return f"loading the model in {loading} actor{'s' * (loading > 1)}"
    return missing_resources(pool.num_cpus, pool.num_gpus) or "starting actors"


def _result_batches(make_dataset: Callable[[], Any]) -> Iterator[pa.Table]:
    """Yield the results of a dataset, which is created once more if Ray does not start in time for a first result."""
    for attempt in (1, 2):
        num_batches = 0
        try:
            for batch in make_dataset().iter_batches(batch_size=None, batch_format="pyarrow"):
                num_batches += 1
                yield batch
        except Exception as error:
            if num_batches or not started_late(error):
                raise
            if attempt == 2:
                raise late_start_error(error) from error
        else:
            return


def _map_shards(
    dataset: Any,
    make_worker: Callable[[], ShardWorker],
    pool: ActorPool,
    name: str,
    shared: tuple[Any, StoreOffer | None],
    *,
    num_shards: int,
) -> Any:
    """Return a lazy Ray Data dataset of the results; `shared` are the tracker and the store that actors share."""
    return dataset.map_batches(
        type(name, (_ShardActor,), {}),
        fn_constructor_args=[make_worker, *shared],
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=pool.min_size,
            max_size=pool.max_size,
            initial_size=pool.initial_size,
            max_tasks_in_flight_per_actor=_tasks_in_flight(pool, num_shards),
            max_concurrent_calls_per_actor=pool.calls_at_once,
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        # Ray Data restarts actors and repeats their tasks without limit. The tracker sets a limit: it knows whether an
        # actor died while loading, idle or in a batch.
    )


@contextmanager
def _relay_stop(stopping: threading.Event | None, tracker: Any) -> Iterator[None]:
    """Tell the tracker to stop once the event is set, while the block runs."""
    done = threading.Event()

    def watch(event: threading.Event) -> None:
        while not done.wait(STOP_POLL_S):
            if event.is_set():
                tracker.stop.remote()
                return

    if stopping is None:
        yield
        return
    thread = threading.Thread(target=watch, args=(stopping,), daemon=True, name="stopping")
    thread.start()
    try:
        yield
    finally:
        done.set()
        # A thread that outlives the connection to Ray may crash the process at its end.
        thread.join()
