"""The lease on a run folder: which process holds the run, and its progress."""

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from stratoscope.errors import InputError
from stratoscope.results.storage import Storage

NAME = "lease.json"
BEAT_S = 10.0
"""Seconds between heartbeats."""
STALE_S = 60.0
"""Seconds without a heartbeat after which a lease of another host is taken over."""
ENDED = ("Z", "X")
"""States in /proc of processes that have ended."""
SETTLE_S = 0.3
"""Seconds between writing a lease and reading it back; of two processes that start together, the later one wins."""

logger = logging.getLogger(__name__)


class LeaseLostError(RuntimeError):
    """Another process has taken over the run."""


@dataclass(frozen=True)
class LeaseHolder:
    """The process that holds the lease on a run folder."""

    owner: str
    host: str
    """Name of the host, for messages."""
    namespace: str
    """Boot of the host and namespace of process ids; within it, a process id is unique."""
    pid: int
    created: float
    """Start time of the process; the operating system reuses process ids."""
    beat: float = 0.0
    """Time of the last heartbeat, in seconds since 1970."""
    start_ticks: int | None = None
    """Start of the process in clock ticks since the host booted; None where the host has no /proc. Unlike `created`, it
    does not change when the clock of the host is set."""
    progress: dict[str, Any] = field(default_factory=dict)
    """Progress of the current stage: done, total, errors, rate and unit."""

    @classmethod
    def this_process(cls) -> "LeaseHolder":
        """Describe the calling process."""
        process = psutil.Process()
        return cls(
            uuid.uuid4().hex,
            socket.gethostname(),
            _namespace(),
            process.pid,
            process.create_time(),
            time.time(),
            _start_ticks(process.pid),
        )

    def is_alive(self, now: float) -> bool:
        """Return whether the holder is alive: checks its process on this host, and its last heartbeat elsewhere."""
        if self.namespace != _namespace():
            return now - self.beat < STALE_S
        if self.start_ticks is not None:
            return _start_ticks(self.pid) == self.start_ticks
        try:
            process = psutil.Process(self.pid)
            # The start time is rounded to clock ticks.
            return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.created) < 1
        except psutil.NoSuchProcess:
            return False


def read_holder(run: Storage) -> LeaseHolder | None:
    """Return the holder of a run folder, alive or not, or None where nobody holds it."""
    try:
        values = json.loads(run.read(NAME)).items()
        return LeaseHolder(**{name: value for name, value in values if name in LeaseHolder.__dataclass_fields__})
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None


def check_not_held(run: Storage) -> None:
    """Check that no live process holds a run folder.

    Raises:
        InputError: a live process holds it.
    """
    holder, now = read_holder(run), time.time()
    if holder is not None and holder.is_alive(now):
        raise InputError(
            f"{run.url()} is in use by process {holder.pid} on {holder.host} (last heartbeat "
            f"{max(0.0, now - holder.beat):.0f} s ago); wait for it, stop it, or choose another run_id"
        )


class Lease:
    """Holds a run folder while its block runs, and renews the lease from a background thread.

    Of two processes that take a folder at the same instant, one finds the other's lease after `SETTLE_S` and gives up.
    A process that was cut off for longer than `STALE_S`, and lost the folder meanwhile, notices at its next heartbeat.
    Neither case can corrupt a result: shards are pure functions and files are written atomically.

    Args:
        run: the run folder.

    Raises:
        InputError: a live process holds the folder.
    """

    def __init__(self, run: Storage) -> None:
        self._run = run
        self._holder = LeaseHolder.this_process()
        self._lost = self._released = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def __enter__(self) -> Self:
        with self._alone():
            check_not_held(self._run)
            self._beat()
        time.sleep(SETTLE_S)
        if not self._is_mine():
            raise InputError(f"{self._run.url()} was taken by another process at the same moment; wait for it to end")
        self._thread.start()
        return self

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes of this machine from taking a local folder while the block runs."""
        path = self._run.local_path()
        if path is None:
            yield
            return
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # Some shared file systems have no locks; only `SETTLE_S` protects the run there.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_renewing()
        try:
            if self._is_mine():
                self._run.remove(NAME)
        except OSError as removal_error:
            logger.warning("the lease could not be removed: %s", removal_error)

    def remove_folder(self) -> None:
        """Remove the run folder, which also releases the lease."""
        self._stop_renewing()
        self._run.remove("")

    def publish_progress(self, **progress: Any) -> None:
        """Set the progress that the next heartbeat publishes.

        Raises:
            LeaseLostError: another process has taken over the run.
        """
        if self._lost:
            raise self._lost_error()
        self._holder = replace(self._holder, progress=progress)

    def check_held(self) -> None:
        """Check that this process still holds the run folder.

        Raises:
            LeaseLostError: another process has taken over the run, and may have finished it since.
        """
        if self._lost or not self._is_mine():
            raise self._lost_error()

    def _lost_error(self) -> LeaseLostError:
        return LeaseLostError(f"another process has taken over {self._run.url()}")

    def _stop_renewing(self) -> None:
        self._released = True
        self._wake.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._wake.wait(BEAT_S) and not self._released:
            try:
                self._lost = not self._is_mine()
                if self._lost:
                    return
                self._beat()
            except Exception as error:  # a store that is unreachable now may be back at the next heartbeat
                logger.warning("the lease could not be renewed: %s", error)

    def _beat(self) -> None:
        content: dict[str, Any] = asdict(replace(self._holder, beat=time.time()))
        self._run.write(NAME, json.dumps(content).encode())

    def _is_mine(self) -> bool:
        holder = read_holder(self._run)
        return holder is not None and holder.owner == self._holder.owner


def _namespace() -> str:
    """Return a name that two processes share if and only if they can see each other's process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - a link that cannot be resolved
    except OSError:
        return socket.gethostname()


def _start_ticks(pid: int) -> int | None:
    """Return the start of a process in clock ticks since boot, or None if there is no such process or no /proc.

    A process that has ended and that its parent has not waited for yet is none.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the name of the program in brackets, which may hold spaces and brackets; these are the third
    # and the 22nd.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ENDED else int(fields[19])
