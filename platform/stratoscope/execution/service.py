"""Services: several stateful worker actors; each call is dispatched to the next free one."""

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

from stratoscope.errors import RunError
from stratoscope.execution.attempts import BrokenProcessError
from stratoscope.execution.connection import missing_resources, on_driver_node
from stratoscope.execution.failures import root_cause, start_again
from stratoscope.execution.pool import ActorPool
from stratoscope.execution.shards import EXIT_BROKEN, NO_PROGRESS_TIMEOUT_S
from stratoscope.phases import phase

RESTARTS = 3
"""Restarts of a worker whose process dies."""
RETRIES = 1
"""Retries of the call during which the worker died."""
STOPPED = "stopped by SIGTERM; repeat the command with the same run_id to resume"


class _ServiceActor:
    """Actor that holds one worker."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._worker = make()

    def call(self, method: str, args: Sequence[Any]) -> Any:
        """Call a method of the worker."""
        try:
            return getattr(self._worker, method)(*args)
        except BrokenProcessError:
            os._exit(EXIT_BROKEN)

    def ready(self) -> None:
        """Return once the worker is constructed."""


class _Dispatcher:
    """Dispatches calls to free workers. A worker joins when it is ready, and leaves when it cannot be restarted."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self._workers = list(workers)
        self._ready: list[Any] = []
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        self._joining: list[asyncio.Task[None]] = []
        self._last_error: Exception | None = None

    async def open(self) -> None:
        """Let workers join, and return when the first is ready.

        Raises:
            Exception: no worker can be constructed.
        """
        self._joining = [asyncio.create_task(self._join(worker)) for worker in self._workers]
        waiting: set[asyncio.Task[None]] = set(self._joining)
        while waiting and not self._ready:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready and self._last_error:
            raise self._last_error

    async def _join(self, worker: Any) -> None:
        try:
            await worker.ready.remote()
        except Exception as error:
            self._last_error = error
        else:
            self._ready.append(worker)
            self._free.put_nowait(worker)

    async def call(self, method: str, args: Sequence[Any]) -> Any:
        """Wait for a free worker and return its answer."""
        worker = await self._free_worker()
        try:
            answer = await worker.call.remote(method, args)
        except RayActorError:
            # Ray may restart it: it joins again once it is ready.
            self._ready.remove(worker)
            self._joining.append(asyncio.create_task(self._join(worker)))
            raise
        except BaseException:
            self._free.put_nowait(worker)
            raise
        self._free.put_nowait(worker)
        return answer

    async def _free_worker(self) -> Any:
        while True:
            if not self._ready and all(task.done() for task in self._joining):
                raise RuntimeError(f"no worker is left; the last one failed with: {self._last_error}")
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
    """Handle of a service, which any process of the same Ray job may call.

    Args:
        name: name of the service.
        stopping: event that abandons calls once it is set.
    """

    def __init__(self, name: str, stopping: threading.Event | None = None) -> None:
        self.name = name
        self._dispatcher = ray.get_actor(name)
        self._stopping = stopping

    @property
    def size(self) -> int:
        """Number of workers that are ready."""
        return sum(ray.get([self._dispatcher.size.remote()]))

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of a free worker.

        Raises:
            RunError: the run is stopping.
            Exception: the error of the worker, wrapped by Ray.
        """
        return self._answers([self._dispatcher.call.remote(method, args)])[0]

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Make several calls, one per worker at a time, and return the answers in order."""
        return self._answers([self._dispatcher.call.remote(method, args) for args in calls])

    def try_map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        """Make several calls like `map`, but return a `RunError` with the cause in place of each failed answer."""
        waiting: list[Any] = [self._dispatcher.call.remote(method, args) for args in calls]
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
        self._answers([self._dispatcher.broadcast.remote(method, args)])

    def _answers(self, calls: Sequence[Any]) -> list[Any]:
        waiting = list(calls)
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
            if self._stopping is not None and self._stopping.is_set():
                raise RunError(STOPPED)
        answers: list[Any] = ray.get(list(calls))
        return answers


@contextmanager
def serve(
    name: str, make: Callable[[], Any], pool: ActorPool, stopping: threading.Event | None = None
) -> Iterator[Service]:
    """Run workers while the block runs; the block begins when the first worker is ready.

    Args:
        name: name of the actors on the dashboard.
        make: constructs a worker, in its own process.
        pool: number and resources of the workers.
        stopping: event that abandons calls once it is set.

    Raises:
        RunError: no worker was ready within `NO_PROGRESS_TIMEOUT_S`.
    """
    with phase(f"starting {pool.max_size} x {name}", status=lambda: _starting_status(pool)):
        unique, handles = start_again(lambda: _open(name, make, pool, stopping))
    try:
        yield Service(unique, stopping)
    finally:
        _kill(handles)


def _starting_status(pool: ActorPool) -> str:
    return missing_resources(pool.num_cpus, pool.num_gpus) or "processes start and load the model"


def _open(
    name: str, make: Callable[[], Any], pool: ActorPool, stopping: threading.Event | None
) -> tuple[str, list[Any]]:
    """Start the actors of a service, and return its unique name and their handles once the first worker is ready."""
    actor: Any = ray.remote(type(name, (_ServiceActor,), {}))
    workers = [
        actor.options(
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
            max_restarts=RESTARTS,
            max_task_retries=RETRIES,
        ).remote(make)
        for _ in range(pool.max_size)
    ]
    unique = f"{name}-{uuid.uuid4().hex[:8]}"
    dispatcher: Any = (
        ray.remote(_Dispatcher)
        .options(name=unique, num_cpus=0, max_concurrency=1000, scheduling_strategy=on_driver_node())
        .remote(workers)
    )
    handles = [dispatcher, *workers]
    try:
        _wait(dispatcher.open.remote(), stopping)
    except BaseException:
        _kill(handles)
        raise
    return unique, handles


def _kill(handles: Sequence[Any]) -> None:
    for handle in handles:
        ray.kill(handle)


def _wait(opening: Any, stopping: threading.Event | None) -> None:
    deadline = time.monotonic() + NO_PROGRESS_TIMEOUT_S
    while not ray.wait([opening], timeout=1.0)[0]:
        if stopping is not None and stopping.is_set():
            raise RunError(STOPPED)
        if time.monotonic() > deadline:
            raise RunError(f"no worker was ready within {NO_PROGRESS_TIMEOUT_S / 3600:.0f} hours")
    ray.get(opening)
