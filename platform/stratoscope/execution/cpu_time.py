"""CPU time of a process and its descendants, Ray's processes included."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

_Key = tuple[float, int]
"""Creation time and id of a process; the id alone is not unique, because the system reuses ids."""


@dataclass
class _Usage:
    """What is known of a process since the latest sample in which it existed."""

    parent: _Key | None
    """Its parent at that time; None if that is no process of the tree."""
    own: float = 0.0
    """CPU seconds of the process."""
    waited: float = 0.0
    """CPU seconds of its ended children that it has waited for, and of theirs."""
    exists: bool = True
    """Whether it existed in the latest sample."""


class ProcessTree:
    """CPU time of a process and all its descendants, including those that no process waits for.

    The system adds the time of an ended process to its parent only if the parent waits for it. Nothing waits for Ray's
    workers, so that `getrusage` misses them. Samples find the processes of the tree and record the CPU time of each. A
    process belongs to the tree if its parent does, if it belonged to the tree in an earlier sample, or if it is in the
    session of the first process. The last two rules find descendants whose parents have ended.

    The result never exceeds the true value. It misses what a process used after its last sample, unless its parent
    waited for it: at most the time between two samples, times the number of its threads that ran. It also misses
    processes that nothing waited for and no sample saw, and those of other machines. The system counts in hundredths of
    a second. Source: ours.

    Args:
        pid: id of the first process, a child of this process that has not been waited for.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # A first process without its own session shares the session of this process with unrelated processes.
        self._session = pid if os.getsid(pid) == pid else None
        self._usages: dict[_Key, _Usage] = {_key(psutil.Process(pid)): _Usage(parent=None)}

    @property
    def ended(self) -> bool:
        """Whether the first process has ended. A sample has its final CPU time, until it is waited for."""
        try:
            return psutil.Process(self._pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    @property
    def seconds(self) -> float:
        """CPU seconds, user and system, of all processes up to the latest sample."""
        children = defaultdict(list)
        for key, usage in self._usages.items():
            children[usage.parent].append(key)
        return sum(self._total(key, children) for key in children[None])

    def sample(self) -> None:
        """Record the CPU time of all processes of the tree."""
        for usage in self._usages.values():
            usage.exists = False
        members: dict[int, _Key] = {}
        # A parent comes before its children. A child that ends during the sample is then not counted twice, once by
        # itself and once in its parent's time.
        for key, process in sorted(_processes()):
            with suppress(psutil.Error, ProcessLookupError):
                parent = members.get(process.ppid())
                if parent or key in self._usages or self._in_session(process):
                    members[process.pid] = key
                    times = process.cpu_times()
                    waited = times.children_user + times.children_system
                    self._usages[key] = _Usage(parent, times.user + times.system, waited)

    def _in_session(self, process: psutil.Process) -> bool:
        return self._session is not None and os.getsid(process.pid) == self._session

    def _total(self, key: _Key, children: Mapping[_Key | None, Sequence[_Key]]) -> float:
        """Return the CPU seconds of a process and its descendants.

        The time of ended children is the larger of two lower bounds: their last samples, and the time of the children
        that were waited for.
        """
        usage = self._usages[key]
        totals = {True: 0.0, False: 0.0}
        for child in children.get(key, ()):
            totals[self._usages[child].exists] += self._total(child, children)
        return usage.own + totals[True] + max(usage.waited, totals[False])


def _processes() -> Iterator[tuple[_Key, psutil.Process]]:
    """Yield the machine's processes."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            yield _key(process), process


def _key(process: psutil.Process) -> _Key:
    return process.create_time(), process.pid
