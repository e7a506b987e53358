"""A graph of tasks, each run once by Ray, with at most one other that it waits for."""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from stratoscope.errors import InputError, RunError
from stratoscope.execution.cluster import is_local, node_resources
from stratoscope.execution.failures import root_cause

Key = TypeVar("Key", bound=Hashable)
RETRIES = 2
"""Of a task whose process or node died; an error of the task itself is told at once."""
POLL_S = 0.5
QUEUE_AHEAD = 4
"""Tasks that wait for room on a cluster, so that it sees a reason to grow."""


@dataclass(frozen=True)
class Task:
    """A call that is to be made somewhere in the cluster."""

    arguments: tuple[Any, ...]
    after: Hashable | None = None
    """Key of the task that has to be done first; None waits for none, and so does one that is not in the graph."""


@dataclass(frozen=True)
class TaskResult:
    """How a task ended."""

    result: Any = None
    error: str | None = None


def run_tasks(
    function: Callable[..., Any],
    tasks: Mapping[Key, Task],
    *,
    shared: Any,
    num_cpus: float,
    num_gpus: float,
    stopping: threading.Event,
) -> Iterator[tuple[Key, TaskResult]]:
    """Call a function for every task, as many at once as there is room for, and yield how each ended.

    No more are handed to Ray than have room, or a few more where a cluster may grow: what it has been handed cannot be
    called back.

    A task that fails fails those that wait for it, and no others.

    Args:
        function: called with `shared` and a task's arguments.
        tasks: by key.
        shared: what all take; it is put into the object store once.
        num_cpus: of each task.
        num_gpus: likewise.
        stopping: once it is set, no further task is handed to Ray; those that were are waited for.

    Raises:
        InputError: this machine has no room for a single task.
        RunError: the run is to stop, and tasks are left.
    """
    remote: Any = ray.remote(function).options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=RETRIES)
    common = ray.put(shared)
    waiting = dict(tasks)
    running: dict[Any, Key] = {}
    failed: dict[Hashable, str] = {}
    while waiting or running:
        if not stopping.is_set():
            room = _room(num_cpus, num_gpus) - len(running)
            ready = [k for k, t in waiting.items() if t.after not in waiting and t.after not in running.values()]
            for key in ready[: max(0, room)]:
                task = waiting.pop(key)
                if task.after in failed:
                    failed[key] = f"what it begins with failed: {failed[task.after]}"
                    yield key, TaskResult(error=failed[key])
                else:
                    running[remote.remote(common, *task.arguments)] = key
        elif not running:
            raise RunError(f"stopped by SIGTERM; the same run_id goes on with the {len(waiting)} tasks that are left")
        for reference in ray.wait(list(running), timeout=POLL_S)[0] if running else ():
            key = running.pop(reference)
            try:
                yield key, TaskResult(ray.get(reference))
            except Exception as error:
                failed[key] = root_cause(error)
                yield key, TaskResult(error=failed[key])


def _room(num_cpus: float, num_gpus: float) -> int:
    """Return how many tasks may be handed to Ray at a time."""
    needed = {name: each for name, each in (("CPU", num_cpus), ("GPU", num_gpus)) if each}
    # A task stands on one node.
    room = sum(min(int(node.get(name, 0) / each) for name, each in needed.items()) for node in node_resources())
    if not is_local():
        return room + QUEUE_AHEAD
    if not room:
        asked = ", ".join(f"{each:g} {name}" for name, each in needed.items())
        raise InputError(f"a task takes {asked}, and this machine has not so many; take less for each task")
    return room
