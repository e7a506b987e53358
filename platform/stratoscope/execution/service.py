"""Workers that answer calls: each is an actor with its own state, and a call goes to one that is free."""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stratoscope.errors import RunError
from stratoscope.execution.attempts import BrokenProcessError
from stratoscope.execution.failures import root_cause
from stratoscope.execution.pool import ActorPool
from stratoscope.execution.shards import BROKEN, NO_PROGRESS_TIMEOUT_S

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
        try:
            return getattr(self._worker, method)(*args)
        except BrokenProcessError:
            os._exit(BROKEN)

    def ready(self) -> None:
        """Return once the worker is made."""


class _Dispatcher:
    """Hands calls to workers that are free. A worker joins when it is ready, and leaves when it is dead for good."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self._workers = list(workers)
        self._ready: list[Any] = []
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        self._joining: list[asyncio.Task[None]] = []
        self._lost: Exception | None = None

    async def open(self) -> None:
        """Let workers join, and return when the first has.

        Raises:
            Exception: none can be made.
        """
        self._joining = [asyncio.create_task(self._join(worker)) for worker in self._workers]
        waiting: set[asyncio.Task[None]] = set(self._joining)
        while waiting and not self._ready:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready and self._lost:
            raise self._lost

    async def _join(self, worker: Any) -> None:
        try:
            await worker.ready.remote()
        except Exception as error:
            self._lost = error
        else:
            self._ready.append(worker)
            self._free.put_nowait(worker)

    async def call(self, method: str, args: Sequence[Any]) -> Any:
        """Wait for a free worker and let it answer."""
        worker = await self._next()
        try:
            answer = await worker.call.remote(method, args)
        except RayActorError:
            # It may come back, or be gone for good: it joins again when it answers.
            self._ready.remove(worker)
            self._joining.append(asyncio.create_task(self._join(worker)))
            raise
        except BaseException:
            self._free.put_nowait(worker)
            raise
        self._free.put_nowait(worker)
        return answer

    async def _next(self) -> Any:
        while True:
            if not self._ready and all(task.done() for task in self._joining):
                raise RuntimeError(f"no worker is left; the last was lost to: {self._lost}")
            try:
                return await asyncio.wait_for(self._free.get(), timeout=5)
            except TimeoutError:
                continue

    async def broadcast(self, method: str, args: Sequence[Any]) -> None:
        """Make the same call to every worker that is ready."""
        await asyncio.gather(*(worker.call.remote(method, args) for worker in self._ready))

    async def size(self) -> int:
        """Return how many workers are ready."""
        return len(self._ready)


class Service:
    """A service by its name; it may be called from any process of the same Ray job.

    Args:
        name: of the service.
        stopping: once it is set, calls are given up.
    """

    def __init__(self, name: str, stopping: threading.Event | None = None) -> None:
        self.name = name
        self._desk = ray.get_actor(name)
        self._stopping = stopping

    @property
    def size(self) -> int:
        """Number of workers that are ready."""
        return sum(ray.get([self._desk.size.remote()]))

    def call(self, method: str, *args: Any) -> Any:
        """Let a free worker answer.

        Raises:
            RunError: the run is to stop.
            Exception: what the worker raised, wrapped by Ray.
        """
        return self._answers([self._desk.call.remote(method, args)])[0]

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Make several calls, as many at once as there are workers, and return the answers in order."""
        return self._answers([self._desk.call.remote(method, args) for args in calls])

    def try_map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Make several calls like `map`; in the place of an answer that failed stands a `RunError` that says why."""
        waiting: list[Any] = [self._desk.call.remote(method, args) for args in calls]
        answers: list[Any] = []
        for call in waiting:
            try:
                answers += self._answers([call])
            except Exception as error:
                if self._stopping is not None and self._stopping.is_set():
                    raise
                answers.append(RunError(root_cause(error)))
        return answers

    def broadcast(self, method: str, *args: Any) -> None:
        """Make the same call to every worker that is ready."""
        self._answers([self._desk.broadcast.remote(method, args)])

    def _answers(self, calls: Sequence[Any]) -> list[Any]:
        waiting = list(calls)
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
            if self._stopping is not None and self._stopping.is_set():
                raise RunError("stopped by SIGTERM; the same run_id goes on from there")
        answers: list[Any] = ray.get(list(calls))
        return answers


@contextmanager
def serve(
    name: str, make: Callable[[], Any], pool: ActorPool, stopping: threading.Event | None = None
) -> Iterator[Service]:
    """Run workers while the block runs; it begins when the first is ready.

    Args:
        name: what they are called on the dashboard.
        make: makes one, in its own process.
        pool: how many, and with what resources.
        stopping: once it is set, calls are given up.

    Raises:
        RunError: none was ready for a very long time.
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
    # Here, not on a node that may be taken away.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    unique = f"{name}-{uuid.uuid4().hex[:8]}"
    desk: Any = (
        ray.remote(_Dispatcher)
        .options(name=unique, num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        .remote(workers)
    )
    try:
        _wait(desk.open.remote(), stopping)
        yield Service(unique, stopping)
    finally:
        for handle in [desk, *workers]:
            ray.kill(handle)


def _wait(opening: Any, stopping: threading.Event | None) -> None:
    deadline = time.monotonic() + NO_PROGRESS_TIMEOUT_S
    while not ray.wait([opening], timeout=1.0)[0]:
        if stopping is not None and stopping.is_set():
            raise RunError("stopped by SIGTERM; the same run_id goes on from there")
        if time.monotonic() > deadline:
            raise RunError(f"no worker was ready within {NO_PROGRESS_TIMEOUT_S / 3600:.0f} hours")
    ray.get(opening)
