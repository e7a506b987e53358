"""Child processes with a time limit."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stratoscope.execution.cpu_time import ProcessTree

GRACE_S = 120.0
"""Seconds between SIGTERM and SIGKILL, during which a job finishes its work in progress."""
SAMPLE_S = 0.5
"""Least seconds between two samples of CPU time, each of which reads all processes of the machine."""


@dataclass(frozen=True)
class ProcessResult:
    """Result of a process that has ended."""

    code: int
    """Exit code; minus the number of the signal that killed it."""
    seconds: float
    cpu_seconds: float
    """CPU seconds of the process and its descendants, as `ProcessTree` measures them with samples every `SAMPLE_S`."""
    exceeded: str | None
    """Limit that the process exceeded and was stopped for; None if it ended otherwise."""


class Process:
    """A process that writes to files and is stopped when it exceeds its time limit.

    Args:
        arguments: the program and its arguments.
        output: file for its stdout.
        errors: file for its stderr.
        seconds: time limit; infinite sets none.
        limit: name of the time limit, for `ProcessResult.exceeded`.
        environment: environment variables, besides those of this process.
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
            # A new session, so that its descendants can be killed with it.
            self._process = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._start = time.monotonic()
        self._tree, self._sampled_at = ProcessTree(self._process.pid), self._start
        self._time_limit, self._limit = seconds, limit
        self._exceeded: str | None = None
        self._stopped_at: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the process started."""
        return time.monotonic() - self._start

    def poll(self) -> ProcessResult | None:
        """Return the result, or None while the process runs.

        A process over its time limit is stopped, and killed if it has not ended after `GRACE_S`. This method also
        samples CPU time, so it has to be called about every `SAMPLE_S`.
        """
        ended = self._tree.ended
        self._sample(last=ended)
        # `Popen.poll` waits for the process, after which its CPU time can no longer be read.
        code = self._process.poll() if ended else None
        if code is not None:
            # A killed process leaves its descendants behind.
            self.kill()
            return ProcessResult(code, self.seconds, self._tree.seconds, self._exceeded)
        if self.seconds > self._time_limit:
            self.expire(self._limit)
        if self._stopped_at is not None and time.monotonic() > self._stopped_at + GRACE_S:
            self.kill()
        return None

    def _sample(self, *, last: bool) -> None:
        """Sample the CPU time if it is due, and at the end."""
        if last or time.monotonic() > self._sampled_at + SAMPLE_S:
            self._tree.sample()
            self._sampled_at = time.monotonic()

    def expire(self, limit: str) -> None:
        """Stop the process because it exceeded a limit, unless it has been stopped already."""
        if self._stopped_at is None:
            self._exceeded = limit
            self.stop()

    def stop(self) -> None:
        """Send SIGTERM; `poll` kills the process if it does not end."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process and its descendants."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
