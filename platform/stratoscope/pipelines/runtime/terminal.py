"""Keeps the terminal for the job: output of libraries on stderr, including compiled ones, goes to the run's log."""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from rich.console import Console

from stratoscope.phases import heard

STDERR = 2
LOG_WIDTH = 240
"""Width of tables where stdout is not a terminal."""


class _OutputConsole(Console):
    """A console on stdout that raises the error of a closed pipe to its caller. Rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704 - rich calls this in its exception handler


def stdout_console() -> Console:
    """Return a console on stdout, as wide as the terminal, or wide enough for any table."""
    return _OutputConsole(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)


class _LenientFile(io.TextIOBase):
    """Text output to a file descriptor. Output that cannot be written is dropped, so that no run fails because of it.

    Args:
        descriptor: the file descriptor.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Write text, and tell the announcer of phases that something was printed."""
        content = memoryview(text.encode(errors="replace"))
        with suppress(OSError):
            while content:
                content = content[os.write(self._descriptor, content) :]
        if text:
            heard()
        return len(text)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the output is a terminal."""
        return os.isatty(self._descriptor)


class Terminal:
    """A console on the real stderr, while other output on stderr is redirected.

    Args:
        console: shows progress.
        redirected: file that holds the redirected output so far; None where nothing is redirected.
    """

    def __init__(self, console: Console, redirected: Path | None = None) -> None:
        self.console = console
        self._redirected = redirected

    def say(self, line: str) -> None:
        """Print a line above any progress bar."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

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
    with suppress(OSError):
        sys.stderr.flush()
    saved = _duplicate_stderr()
    with tempfile.NamedTemporaryFile(prefix="stratoscope-") as redirected:
        os.dup2(redirected.fileno(), STDERR)
        try:
            yield Terminal(Console(file=cast("IO[str]", _LenientFile(saved))), Path(redirected.name))
        finally:
            with suppress(OSError):
                sys.stderr.flush()
            os.dup2(saved, STDERR)
            os.close(saved)


def _duplicate_stderr() -> int:
    """Return a duplicate of the descriptor of stderr, or a descriptor of the null device if stderr is closed."""
    try:
        return os.dup(STDERR)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
