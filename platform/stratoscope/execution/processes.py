"""Programs that run as processes of their own, each with its own time."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRACE_S = 120.0
"""Between SIGTERM and SIGKILL: a job that was told to stop ends what it has in work."""


@dataclass(frozen=True)
class ProcessResult:
    """How a process ended."""

    code: int
    """Its exit code; minus the number of the signal that killed it."""
    seconds: float
    late: str | None
    """What was over when it was stopped for that; None where it was not."""


class Process:
    """A process that writes to files, and is stopped when its time is over.

    Args:
        arguments: the program and what it is given.
        output: file for its stdout.
        errors: file for its stderr.
        seconds: its time; infinite sets no limit.
        limit: what is over after that, in words.
        environment: variables besides those of this process.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        errors: Path,
        seconds: float,
        limit: str,
        environment: Mapping[str, str],
    ) -> None:
        with output.open("wb") as out, errors.open("wb") as err:
            # A session of its own, so that all that it starts can be killed with it.
            self._process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._began = time.monotonic()
        self._time, self._limit = seconds, limit
        self._late: str | None = None
        self._told: float | None = None

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self._began

    def poll(self) -> ProcessResult | None:
        """Return how it ended, or None while it runs.

        Where its time is over it is stopped, and where it does not listen it is killed after `GRACE_S`.
        """
        code = self._process.poll()
        if code is not None:
            # One that was killed leaves behind what it has started; after another there is nothing to end.
            self.kill()
            return ProcessResult(code, self.seconds, self._late)
        if self.seconds > self._time:
            self.expire(self._limit)
        if self._told is not None and time.monotonic() > self._told + GRACE_S:
            self.kill()
        return None

    def expire(self, limit: str) -> None:
        """Stop it, because something is over."""
        if self._told is None:
            self._late = limit
            self.stop()

    def stop(self) -> None:
        """Ask it to end; `poll` kills it where it does not."""
        if self._told is None:
            self._told = time.monotonic()
            self._process.terminate()

    def kill(self) -> None:
        """End it at once, and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
