"""Running shards of work on an actor pool with Ray Data."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stratoscope.execution.attempts import (
    DEATHS_WHILE_LOADING,
    Attempt,
    AttemptTracker,
    BrokenProcessError,
    StoppedError,
)
from stratoscope.execution.pool import ActorPool
from stratoscope.results import ShardResult

CALLS_AT_ONCE = 2
"""Shards that an actor has in hand: one is computed while another is made ready or written up."""
NO_PROGRESS_TIMEOUT_S = 3 * 3600.0
"""Without a finished shard or a new actor; GPU nodes may take 40 minutes to come, and a shard on a large model long."""
BROKEN = 70
"""Exit status of an actor that cannot go on."""


class ShardWorker(Protocol):
    """What an actor runs: a pure function of a shard, set up once per actor, and called from several threads."""

    def __call__(self, shard: dict[str, Any], attempt: Attempt, /) -> ShardResult:
        """Do one shard, given as the columns of its row."""


class _ShardActor:
    """Turns rows that describe shards into rows that hold their results.

    A result is one row, whatever its size, so Ray may move and regroup blocks as it likes.
    """

    def __init__(self, make_worker: Callable[[], ShardWorker], ledger: Any) -> None:
        self._ledger = ledger
        actor = ray.get_runtime_context().get_actor_id()
        deaths = ray.get(ledger.load.remote(actor))
        if deaths > DEATHS_WHILE_LOADING:
            raise RuntimeError(f"an actor died {deaths} times while it loaded, most likely for want of memory")
        self._worker = make_worker()
        ray.get(ledger.ready.remote(actor))

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
        begun = ray.get(self._ledger.begin.remote(shard))
        if begun is None:
            return None
        try:
            number, crashes = begun
            result = self._worker(row, Attempt(number, crashes, partial(self._note, shard)))
        except StoppedError:
            return None
        except BrokenProcessError:
            os._exit(BROKEN)
        ray.get(self._ledger.finish.remote(shard))
        return result

    def _note(self, shard: int, units: list[int]) -> None:
        if not ray.get(self._ledger.note.remote(shard, list(units))):
            raise StoppedError


def _tasks_in_flight(pool: ActorPool, num_shards: int) -> int | None:
    """Return 1 where the first actor to be ready would take the shards of those that still load.

    A pool that may grow needs a queue to see that it should, and where shards are many a queue does no harm.
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

    An actor whose process dies is started again, and what it had in work is done again (see `Attempt`).

    Args:
        shards: tables of one row each; the worker gets its columns. They are read one by one, into Ray's object store.
        make_worker: builds the worker inside each actor.
        pool: size and resources of the pool.
        name: what the actors are called on the dashboard.
        stopping: once it is set, the shards that were started are finished and no other is begun.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    # Here, not on a node that may be taken away.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    ledger = ray.remote(AttemptTracker).options(num_cpus=0, scheduling_strategy=here).remote()
    # from_blocks looks at each table here; from_arrow would send a task for it, and wait for a CPU of the cluster.
    dataset = ray.data.from_blocks(shards).map_batches(  # type: ignore[arg-type]
        type(name, (_ShardActor,), {}),
        fn_constructor_args=[make_worker, ledger],
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
        # The ledger sets the bounds: it knows whether an actor died loading, idle or in a batch.
        max_restarts=-1,
        max_task_retries=-1,
    )
    ended = threading.Event()
    if stopping is not None:
        threading.Thread(target=_pass_on, args=(stopping, ended, ledger), daemon=True, name="stopping").start()
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                files = dict(zip(row["names"], row["contents"], strict=True))
                yield ShardResult(row["shard"], files, json.loads(row["counts"]))
    finally:
        ended.set()


def _pass_on(stopping: threading.Event, ended: threading.Event, ledger: Any) -> None:
    while not stopping.wait(0.5):
        if ended.is_set():
            return
    ledger.stop.remote()
