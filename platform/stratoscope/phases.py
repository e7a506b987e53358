"""Phases of a process: each is announced when it begins, and repeated while it lasts.

Code in any part of the package names what it does with `phase`. A job decides with `announcing` where the lines go;
outside a job nothing is printed.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

REPEAT_S = 20.0
"""Seconds without any output after which the current phase is stated again."""
POLL_S = 1.2
"""Seconds between two checks of the status of the current phase, and until a quick phase is announced."""
JOIN_S = 5.0
"""Longest wait for the thread that states phases, which may be reading a status."""
logger = logging.getLogger(__name__)

Words = Callable[[], str]


def _nothing() -> str:
    return ""


@dataclass(frozen=True, eq=False)
class _Phase:
    text: str
    status: Words
    """Returns what the phase does or waits for; a change is announced."""
    extent: Words
    """Returns the progress of the phase, which each repetition includes."""
    began: float = field(default_factory=time.monotonic)


class Announcer:
    """Prints the phases of this process, one line each.

    Args:
        name: name of the job, which begins each line.
        say: prints a line.
        repeat_s: seconds without any output after which the current phase is stated again.
        poll_s: seconds between two looks at the status of the current phase.
    """

    def __init__(self, name: str, say: Callable[[str], None], repeat_s: float, poll_s: float) -> None:
        self._name, self._say, self._repeat_s = name, say, repeat_s
        self._poll_s = min(poll_s, repeat_s / 4)
        self._said, self._said_at = "", time.monotonic()
        self._changed_at = self._said_at
        self._settled = False
        self._done = threading.Event()
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="phases")

    def redirect(self, say: Callable[[str], None]) -> None:
        """Print further lines in another way."""
        with self._lock:
            self._say = say

    def start(self) -> None:
        """Start repeating the current phase."""
        self._thread.start()

    def stop(self) -> None:
        """Stop repeating the current phase; no line is printed afterwards."""
        self._done.set()
        self._thread.join(JOIN_S)

    def heard(self) -> None:
        """Record that something else was printed, so that the next repetition can wait."""
        self._said_at = time.monotonic()

    def tell(self, text: str) -> None:
        """Print a line that is not a phase."""
        with self._lock:
            self.heard()
            self._say(f"{self._name}: {text}")

    def announce(self) -> None:
        """Print the current phase if it has changed."""
        self._settled = False
        self._print(_current(with_status=False), read_of=list(_phases))

    def settle(self) -> None:
        """Continue the outer phase after an inner one has ended, which does not count as a change."""
        with self._lock:
            self._settled, self._changed_at = True, time.monotonic()

    def _watch(self) -> None:
        reader: _Reader | None = None
        while not self._done.wait(self._poll_s):
            # A status function may query a process that does not answer; the phase is stated anyway.
            reader = _Reader() if reader is None or not reader.is_alive() else reader
            reader.join(self._repeat_s / 2)
            repeat = time.monotonic() - self._said_at >= self._repeat_s
            if not reader.is_alive():
                self._print(reader.current, reader.extent, read_of=reader.phases, repeat=repeat)
            elif repeat:
                self._print(_current(with_status=False), read_of=list(_phases), repeat=True)

    def _print(self, current: str, extent: str = "", *, read_of: list[_Phase], repeat: bool = False) -> None:
        with self._lock:
            if read_of != _phases:
                return  # read before the phase changed
            if self._settled:
                self._settled, self._said = False, current
            # The end of a status is not announced, only what follows it.
            ended = current and self._said.startswith(f"{current}: ")
            self._said = current if ended else self._said
            now, changed = time.monotonic(), current != self._said
            if self._done.is_set() or not (repeat or (changed and current)):
                return
            self._changed_at = now if changed else self._changed_at
            lasted = "" if changed else f"{extent and f', {extent}'}, for {_duration(now - self._changed_at)}"
            self._said, self._said_at = current, now
            self._say(f"{self._name}: {current or 'working'}{lasted}")


class _Reader(threading.Thread):
    """Reads the current phase with its status and extent."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="phase status")
        self.current = self.extent = ""
        self.phases = list(_phases)
        self.start()

    def run(self) -> None:
        """Read them."""
        self.current, self.extent = _current(with_status=True), _extent()


_phases: list[_Phase] = []
_announcer: Announcer | None = None


@contextmanager
def announcing(
    name: str, say: Callable[[str], None], *, repeat_s: float = REPEAT_S, poll_s: float = POLL_S
) -> Iterator[Announcer]:
    """Announce the phases of this process while the block runs. A nested block uses the announcer of the outer block.

    Args:
        name: name of the job, which begins each line.
        say: prints a line.
        repeat_s: seconds without any output after which the current phase is stated again.
        poll_s: seconds between two looks at the status of the current phase.
    """
    global _announcer  # noqa: PLW0603 - the announcer belongs to the process, like logging handlers
    if _announcer is not None:
        yield _announcer
        return
    announcer = _announcer = Announcer(name, say, repeat_s, poll_s)
    announcer.start()
    try:
        yield announcer
    finally:
        _announcer = None
        announcer.stop()


@contextmanager
def phase(text: str, *, status: Words = _nothing, extent: Words = _nothing, quick: bool = False) -> Iterator[None]:
    """Name what the process does while the block runs. A phase within another is stated after it.

    Args:
        text: the phase; an empty text adds a status or an extent to the phase around it.
        status: returns what the phase does or waits for, in words; a change is announced.
        extent: returns the progress of the phase, which each repetition includes.
        quick: whether the phase is announced only if it lasts for `POLL_S`.
    """
    this = _Phase(text, status, extent)
    _phases.append(this)
    if _announcer is not None and text and not quick:
        _announcer.announce()
    try:
        yield
    finally:
        _phases.remove(this)
        if _announcer is not None:
            _announcer.settle()


def tell(text: str) -> None:
    """Log a warning that does not end the job; inside `announcing`, print it for the user as well."""
    logger.warning(text)
    if _announcer is not None:
        _announcer.tell(text)


def heard() -> None:
    """Record that this process has printed something else."""
    if _announcer is not None:
        _announcer.heard()


def _current(*, with_status: bool) -> str:
    """Return the current phase, preceded by the phases around it, outermost first."""
    phases = list(_phases)
    texts = [one.text for one in phases if one.text]
    status = next((one.status for one in reversed(phases) if one.status is not _nothing), _nothing)
    return ": ".join([*texts, *filter(None, [_safely(status) if with_status else ""])])


def _extent() -> str:
    """Return the progress of the innermost phase that reports any."""
    extent = next((one.extent for one in reversed(list(_phases)) if one.extent is not _nothing), _nothing)
    return _safely(extent)


def _safely(text: Words) -> str:
    """Return the text from a function, or an empty text if the function fails."""
    try:
        return text()
    except Exception as error:
        logger.debug("the state of a phase is not known: %s", error)
        return ""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
