"""The terminal belongs to the job: what libraries write to stderr, compiled ones included, goes to the run's log."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

STDERR = 2
WIDTH_OF_A_LOG = 240


def stdout_console() -> Console:
    """Return a console for what a command answers on stdout: as wide as a terminal, or wide enough for any table."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_A_LOG)


class Terminal:
    """A console on the real stderr, and a place for everything else that is written there.

    Args:
        console: where progress is shown.
        aside: file that holds what was written so far; None where nothing is redirected.
    """

    def __init__(self, console: Console, aside: Path | None = None) -> None:
        self.console = console
        self._aside = aside

    def redirect_stderr(self, log: Path) -> None:
        """Append to a log what was written so far, and let all that follows go there."""
        if self._aside is None:
            return
        with self._aside.open("rb") as earlier, log.open("ab") as file:
            shutil.copyfileobj(earlier, file)
            os.dup2(file.fileno(), STDERR)


@contextmanager
def own_terminal() -> Iterator[Terminal]:
    """Redirect the process's stderr while the block runs, and yield a console on the real one."""
    sys.stderr.flush()
    saved = os.dup(STDERR)
    with tempfile.NamedTemporaryFile(prefix="stratoscope-") as aside, os.fdopen(os.dup(saved), "w") as real:
        os.dup2(aside.fileno(), STDERR)
        try:
            yield Terminal(Console(file=real), Path(aside.name))
        finally:
            sys.stderr.flush()
            os.dup2(saved, STDERR)
            os.close(saved)
