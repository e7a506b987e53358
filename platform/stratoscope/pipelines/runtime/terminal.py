"""Keeps the terminal for the job: output of libraries on stderr, including compiled ones, goes to the run's log."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

STDERR = 2
LOG_WIDTH = 240
"""Width of tables where stdout is not a terminal."""


def stdout_console() -> Console:
    """Return a console on stdout, as wide as the terminal, or wide enough for any table."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)


class Terminal:
    """A console on the real stderr, while other output on stderr is redirected.

    Args:
        console: shows progress.
        redirected: file that holds the redirected output so far; None where nothing is redirected.
    """

    def __init__(self, console: Console, redirected: Path | None = None) -> None:
        self.console = console
        self._redirected = redirected

    def redirect_stderr(self, log: Path) -> None:
        """Append the redirected output so far to a log, and redirect further output to the log."""
        if self._redirected is None:
            return
        with self._redirected.open("rb") as earlier, log.open("ab") as file:
            shutil.copyfileobj(earlier, file)
            os.dup2(file.fileno(), STDERR)


@contextmanager
def own_terminal() -> Iterator[Terminal]:
    """Redirect the process's stderr while the block runs, and yield a console on the real one."""
    sys.stderr.flush()
    saved = os.dup(STDERR)
    with tempfile.NamedTemporaryFile(prefix="stratoscope-") as redirected, os.fdopen(os.dup(saved), "w") as real:
        os.dup2(redirected.fileno(), STDERR)
        try:
            yield Terminal(Console(file=real), Path(redirected.name))
        finally:
            sys.stderr.flush()
            os.dup2(saved, STDERR)
            os.close(saved)
