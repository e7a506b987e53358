"""Workers that answer calls: each is an actor with its own state, and a call goes to one that is free."""

import asyncio
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stratoscope.execution.pool import ActorPool

RESTARTS = 3
"""Of a worker whose process dies."""
RETRIES = 1
"""Of the call that it died in."""


class _Worker:
    """One actor."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._worker = make()

    def call(self, method: str, args: Sequence[Any]) -> Any:
        """Call a method of the worker."""
        return getattr(self._worker, method)(*args)

    def ready(self) -> None:
        """Return once the worker is made."""


class _Desk:
    """Hands calls to workers that are free."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        for worker in workers:
            self._free.put_nowait(worker)

    async def call(self, method: str, args: Sequence[Any]) -> Any:
        """Wait for a free worker and let it answer."""
        worker = await self._free.get()
        try:
            return await worker.call.remote(method, args)
        finally:
            self._free.put_nowait(worker)


class Service:
    """A named service; it may be called from any process of the same Ray job.

    Args:
        name: under which `Service.find` finds it.
        workers: their handles; empty in a process that only calls.
    """

    def __init__(self, name: str, workers: Sequence[Any] = ()) -> None:
        self.name = name
        self._workers = list(workers)
        self._desk = ray.get_actor(name)

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self._workers)

    def call(self, method: str, *args: Any) -> Any:
        """Let a free worker answer.

        Raises:
            Exception: what the worker raised, wrapped by Ray.
        """
        return ray.get(self._desk.call.remote(method, args))

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Make several calls, as many at once as there are workers, and return the answers in order."""
        return ray.get([self._desk.call.remote(method, args) for args in calls])

    def tell_all(self, method: str, *args: Any) -> None:
        """Make the same call to every worker."""
        ray.get([worker.call.remote(method, args) for worker in self._workers])


@contextmanager
def serve(name: str, make: Callable[[], Any], pool: ActorPool) -> Iterator[Service]:
    """Run workers while the block runs.

    Args:
        name: what they are called on the dashboard.
        make: makes one, in its own process.
        pool: how many, and with what resources.
    """
    actor: Any = ray.remote(type(name, (_Worker,), {}))
    workers = [
        actor.options(
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
            max_restarts=RESTARTS,
            max_task_retries=RETRIES,
        ).remote(make)
        for _ in range(pool.max_size)
    ]
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    unique = f"{name}-{uuid.uuid4().hex[:8]}"
    desk: Any = (
        ray.remote(_Desk)
        .options(name=unique, num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        .remote(workers)
    )
    try:
        # The first tells whether the model can be loaded at all.
        ray.get([worker.ready.remote() for worker in workers])
        yield Service(unique, workers)
    finally:
        for handle in [desk, *workers]:
            ray.kill(handle)
