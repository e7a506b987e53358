"""Running shards of work on an actor pool with Ray Data."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from stratoscope.execution.pool import ActorPool
from stratoscope.results import ShardResult

MAX_ACTOR_RESTARTS = 3
MAX_TASK_RETRIES = 3


class ShardWorker(Protocol):
    """What an actor runs: a pure function of a shard, set up once per actor."""

    def __call__(self, shard: dict[str, Any]) -> ShardResult:
        """Do one shard, given as the columns of its row."""


class _ShardActor:
    """Turns rows that describe shards into rows that hold their results.

    A result is one row, whatever its size, so Ray may move and regroup blocks as it likes.
    """

    def __init__(self, make_worker: Callable[[], ShardWorker]) -> None:
        self._worker = make_worker()

    def __call__(self, batch: pa.Table) -> pa.Table:
        results = [self._worker(row) for row in batch.to_pylist()]
        return pa.table(
            {
                "shard": pa.array([r.shard for r in results], pa.int64()),
                "counts": pa.array([json.dumps(r.counts) for r in results], pa.string()),
                "names": pa.array([list(r.files) for r in results], pa.list_(pa.string())),
                "contents": pa.array([list(r.files.values()) for r in results], pa.list_(pa.large_binary())),
            }
        )


def _tasks_in_flight(pool: ActorPool, num_shards: int) -> int | None:
    """Return 1 where the first actor to be ready would take the shards of those that still load.

    A pool that may grow needs a queue to see that it should, and where shards are many a queue does no harm.
    """
    may_grow = pool.initial_size < pool.max_size
    return None if may_grow or num_shards >= 8 * pool.max_size else 1


def run_shards(
    shards: pa.Table, make_worker: Callable[[], ShardWorker], pool: ActorPool, name: str
) -> Iterator[ShardResult]:
    """Run every shard once on a pool of actors and yield the results as they come.

    Args:
        shards: one row a shard; the worker gets its columns.
        make_worker: builds the worker inside each actor.
        pool: size and resources of the pool.
        name: what the actors are called on the dashboard.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    actor = type(name, (_ShardActor,), {})
    dataset = ray.data.from_arrow([shards.slice(i, 1) for i in range(shards.num_rows)]).map_batches(
        actor,
        fn_constructor_args=[make_worker],
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=pool.min_size,
            max_size=pool.max_size,
            initial_size=pool.initial_size,
            max_tasks_in_flight_per_actor=_tasks_in_flight(pool, shards.num_rows),
        ),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        ray_remote_args_fn=lambda: {"max_restarts": MAX_ACTOR_RESTARTS, "max_task_retries": MAX_TASK_RETRIES},
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():  # type: ignore[union-attr]
            files = dict(zip(row["names"], row["contents"], strict=True))
            yield ShardResult(row["shard"], files, json.loads(row["counts"]))
