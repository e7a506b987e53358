"""The lease on a run folder: who works in it now, and how far they are."""

import json
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from stratoscope.errors import InputError
from stratoscope.results.storage import Storage

NAME = "lease.json"
BEAT_S = 10.0
STALE_S = 60.0
"""A lease of another host without a beat for this long is taken over."""
SETTLE_S = 0.3
"""Between writing a lease and reading it again: of two that come together, the later one stays."""

logger = logging.getLogger(__name__)


class LeaseLostError(RuntimeError):
    """Another process has taken the run over."""


@dataclass(frozen=True)
class Holder:
    """A process that works in a run folder."""

    owner: str
    host: str
    """Name of the host, for people."""
    namespace: str
    """Within it, a process id names one process: boot of the host and namespace of process ids."""
    pid: int
    created: float
    """When the process began, for ids are used again."""
    beat: float = 0.0
    """Last sign of life, seconds since 1970."""
    progress: dict[str, float] = field(default_factory=dict)

    @classmethod
    def this_process(cls) -> "Holder":
        """Describe the calling process."""
        process = psutil.Process()
        return cls(
            uuid.uuid4().hex, socket.gethostname(), _namespace(), process.pid, process.create_time(), time.time()
        )

    def is_alive(self, now: float) -> bool:
        """Tell whether the holder works on: by its process here, by its last beat elsewhere."""
        if self.namespace != _namespace():
            return now - self.beat < STALE_S
        try:
            # The time is kept in ticks of the clock, so it is compared with some room.
            return abs(psutil.Process(self.pid).create_time() - self.created) < 1
        except psutil.NoSuchProcess:
            return False


def read_holder(run: Storage) -> Holder | None:
    """Return who holds a run folder, alive or not, or None."""
    try:
        content = json.loads(run.read(NAME))
        return Holder(**content)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def check_free(run: Storage) -> None:
    """See that nobody works in a run folder.

    Raises:
        InputError: somebody does.
    """
    holder, now = read_holder(run), time.time()
    if holder is not None and holder.is_alive(now):
        raise InputError(
            f"{run.url()} is being worked on by process {holder.pid} on {holder.host} (last sign of life "
            f"{max(0.0, now - holder.beat):.0f} s ago); wait for it, stop it, or choose another run_id"
        )


class Lease:
    """Holds a run folder while its block runs, with a beat from a thread of its own.

    Two processes that take a folder in the same instant see each other when the lease has settled. One that was cut off
    for longer than `STALE_S`, and lost the folder meanwhile, learns of it at its next beat. Neither can spoil a result:
    shards are pure and files whole, so what is written twice is the same.

    Args:
        run: the run folder.

    Raises:
        InputError: somebody works in it.
    """

    def __init__(self, run: Storage) -> None:
        self._run = run
        self._holder = Holder.this_process()
        self._lost = self._ended = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")

    def __enter__(self) -> Self:
        check_free(self._run)
        self._beat()
        time.sleep(SETTLE_S)
        if not self._is_mine():
            raise InputError(f"{self._run.url()} was taken by another process in the same moment; wait for it")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join()
        try:
            if self._is_mine():
                self._run.remove(NAME)
        except OSError as trouble:
            logger.warning("the lease could not be removed: %s", trouble)

    def remove_folder(self) -> None:
        """Remove the run folder, and so give up the lease."""
        self._ended = True
        self._wake.set()
        self._thread.join()
        self._run.remove("")

    def tell(self, **progress: float) -> None:
        """Say how far the work is; the next beat carries it.

        Raises:
            LeaseLostError: another process has taken the run over.
        """
        if self._lost:
            raise LeaseLostError(f"another process has taken over {self._run.url()}")
        self._holder = replace(self._holder, progress=progress)

    def _keep(self) -> None:
        while not self._wake.wait(BEAT_S) and not self._ended:
            try:
                self._lost = not self._is_mine()
                if self._lost:
                    return
                self._beat()
            except Exception as trouble:  # a store that cannot be reached now may be at the next beat
                logger.warning("the lease could not be renewed: %s", trouble)

    def _beat(self) -> None:
        content: dict[str, Any] = asdict(replace(self._holder, beat=time.time()))
        self._run.write(NAME, json.dumps(content).encode())

    def _is_mine(self) -> bool:
        holder = read_holder(self._run)
        return holder is not None and holder.owner == self._holder.owner


def _namespace() -> str:
    """Return what two processes have in common if, and only if, they can see each other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - a link that cannot be resolved
    except OSError:
        return socket.gethostname()
