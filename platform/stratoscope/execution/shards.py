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

from stratoscope.errors import InputError
from stratoscope.execution.attempts import (
    DEATHS_WHILE_LOADING,
    Attempt,
    AttemptTracker,
    BrokenProcessError,
    StoppedError,
)
from stratoscope.execution.cluster import on_driver_node
from stratoscope.execution.pool import ActorPool
from stratoscope.results import ShardResult

CALLS_AT_ONCE = 2
"""Concurrent shards of an actor: one is computed while another is prepared or written."""
NO_PROGRESS_TIMEOUT_S = 3 * 3600.0
"""Longest wait for a shard or an actor. GPU nodes may take 40 minutes to start, and large models long for a shard."""
REFUSED = "refused"
"""Key under which an actor returns, in place of a shard's counts, why the worker refused its input."""
EXIT_BROKEN = 70
"""Exit code of an actor whose process is broken (see `BrokenProcessError`)."""


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

    A result is one row, whatever its size, so Ray may move and regroup blocks.
    """

    def __init__(self, make_worker: Callable[[], ShardWorker], tracker: Any) -> None:
        self._tracker = tracker
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
            }
        )

    def _run(self, row: dict[str, Any]) -> ShardResult | None:
        shard = row["shard"]
        attempt = ray.get(self._tracker.begin.remote(shard))
        if attempt is None:
            return None
        try:
            number, crashes = attempt
            result = self._worker(row, Attempt(number, crashes, partial(self._note, shard)))
        except StoppedError:
            return None
        except InputError as error:
            # Ray would pass on the traceback alone.
            return ShardResult(shard, {}, {REFUSED: str(error)})
        except BrokenProcessError:
            os._exit(EXIT_BROKEN)
        ray.get(self._tracker.finish.remote(shard))
        return result

    def _note(self, shard: int, units: list[int]) -> None:
        if not ray.get(self._tracker.note.remote(shard, list(units))):
            raise StoppedError


def _tasks_in_flight(pool: ActorPool, num_shards: int) -> int | None:
    """Return 1 if the first actor to be ready would otherwise take the shards of those that still load.

    A pool that may grow needs a queue to notice it, and a queue does no harm if there are many shards.
    """
    may_grow = pool.initial_size < pool.max_size
    return None if may_grow or num_shards >= 8 * pool.max_size else 1


def run_shards(
    shards: Sequence[pa.Table],
    make_worker: Callable[[], ShardWorker],
    pool: ActorPool,
    name: str,
    *,
    stopping: threading.Event | None = None,
) -> Iterator[ShardResult]:
    """Run every shard once on a pool of actors and yield the results as they come.

    An actor whose process dies is restarted, and its shards run again (see `Attempt`).

    Args:
        shards: tables of one row each, whose columns the worker gets. They are read one by one into the object store.
        make_worker: constructs the worker inside each actor.
        pool: size and resources of the pool.
        name: name of the actors on the dashboard.
        stopping: event that lets started shards finish and starts no other once it is set.

    Raises:
        InputError: a worker refused its input.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    tracker = ray.remote(AttemptTracker).options(num_cpus=0, scheduling_strategy=on_driver_node()).remote()
    dataset = _map_shards(shards, make_worker, pool, name, tracker)
    with _relay_stop(stopping, tracker):
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                files, counts = dict(zip(row["names"], row["contents"], strict=True)), json.loads(row["counts"])
                if REFUSED in counts:
                    raise InputError(counts[REFUSED])
                yield ShardResult(row["shard"], files, counts)


def _map_shards(
    shards: Sequence[pa.Table], make_worker: Callable[[], ShardWorker], pool: ActorPool, name: str, tracker: Any
) -> Any:
    """Return a lazy Ray Data dataset of the results."""
    # from_blocks reads each table here; from_arrow would start a task for it and wait for a CPU of the cluster.
    return ray.data.from_blocks(shards).map_batches(  # type: ignore[arg-type]
        type(name, (_ShardActor,), {}),
        fn_constructor_args=[make_worker, tracker],
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=pool.min_size,
            max_size=pool.max_size,
            initial_size=pool.initial_size,
            max_tasks_in_flight_per_actor=_tasks_in_flight(pool, len(shards)),
            max_concurrent_calls_per_actor=CALLS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        # The tracker bounds retries: it knows whether an actor died loading, idle or in a batch.
        max_restarts=-1,
        max_task_retries=-1,
    )


@contextmanager
def _relay_stop(stopping: threading.Event | None, tracker: Any) -> Iterator[None]:
    """Tell the tracker to stop once the event is set, while the block runs."""
    done = threading.Event()

    def watch(event: threading.Event) -> None:
        while not event.wait(0.5):
            if done.is_set():
                return
        tracker.stop.remote()

    if stopping is not None:
        threading.Thread(target=watch, args=(stopping,), daemon=True, name="stopping").start()
    try:
        yield
    finally:
        done.set()
