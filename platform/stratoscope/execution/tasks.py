"""Tasks of Ray: a single one, and graphs of tasks, each of which starts when those it depends on have finished."""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from stratoscope.errors import InputError, RunError
from stratoscope.execution.address import is_local
from stratoscope.execution.connection import missing_resources, node_resources
from stratoscope.execution.failures import root_cause
from stratoscope.phases import phase

Key = TypeVar("Key", bound=Hashable)
RETRIES = 2
"""Retries of a task whose process or node died; an error of the task itself is not retried."""
POLL_S = 0.5
QUEUE_AHEAD = 4
"""Tasks submitted beyond the capacity of a cluster, so that it scales up."""


@dataclass(frozen=True)
class Task:
    """A call that runs somewhere in the cluster."""

    arguments: tuple[Any, ...]
    after: tuple[Hashable, ...] = ()
    """Keys of the tasks that must finish first; those that are not in the graph do not count."""


@dataclass(frozen=True)
class TaskResult:
    """Result of a task, or the error that it failed with."""

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
    """Call a function for every task and yield the results as they come.

    Only as many tasks as fit, and a few more on a cluster, are submitted to Ray at a time, so that the run can stop. If
    a task fails, the tasks that depend on it fail too.

    Args:
        function: called with `shared` and a task's arguments.
        tasks: the tasks by key.
        shared: first argument of every call, put into the object store once.
        num_cpus: CPUs of each task.
        num_gpus: GPUs of each task.
        stopping: event that lets submitted tasks finish and submits no other once it is set.

    Raises:
        InputError: not even one task fits on this machine.
        RunError: the run is stopping before all tasks have run.
    """
    remote: Any = ray.remote(function).options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=RETRIES)
    common = ray.put(shared)
    waiting = dict(tasks)
    running: dict[Any, Key] = {}
    failed: dict[Hashable, str] = {}
    while waiting or running:
        if not stopping.is_set():
            free = _capacity(num_cpus, num_gpus) - len(running)
            unfinished = {*waiting, *running.values()}
            ready = [key for key, task in waiting.items() if unfinished.isdisjoint(task.after)]
            for key in ready[: max(0, free)]:
                task = waiting.pop(key)
                if cause := next((failed[other] for other in task.after if other in failed), None):
                    failed[key] = f"the task that it depends on failed: {cause}"
                    yield key, TaskResult(error=failed[key])
                else:
                    running[remote.remote(common, *task.arguments)] = key
        elif not running:
            raise RunError(
                f"stopped by SIGTERM with {len(waiting)} tasks left; repeat the command with the same run_id to resume"
            )
        for reference in ray.wait(list(running), timeout=POLL_S)[0] if running else ():
            key = running.pop(reference)
            try:
                yield key, TaskResult(ray.get(reference))
            except Exception as error:
                failed[key] = root_cause(error)
                yield key, TaskResult(error=failed[key])


def run_remote(function: Callable[..., Any], *args: Any, cpus: float = 1, gpus: float = 0) -> Any:
    """Call a function in a process of its own somewhere in the cluster and return its result.

    Args:
        function: what to call.
        args: its arguments.
        cpus: CPUs of the process.
        gpus: GPUs of the process.

    Raises:
        RunError: the function failed.
    """
    with phase("", status=lambda: missing_resources(cpus, gpus)):
        try:
            return ray.get(ray.remote(function).options(num_cpus=cpus, num_gpus=gpus).remote(*args))
        except Exception as error:
            raise RunError(root_cause(error)) from error


def _capacity(num_cpus: float, num_gpus: float) -> int:
    """Return how many tasks may be submitted to Ray at a time."""
    needed = {name: each for name, each in (("CPU", num_cpus), ("GPU", num_gpus)) if each}
    # A task runs on one node.
    capacity = sum(min(int(node.get(name, 0) / each) for name, each in needed.items()) for node in node_resources())
    if not is_local():
        return capacity + QUEUE_AHEAD
    if not capacity:
        resources = ", ".join(f"{each:g} {name}" for name, each in needed.items())
        raise InputError(f"a task needs {resources}, which this machine does not have; give each task less")
    return capacity
