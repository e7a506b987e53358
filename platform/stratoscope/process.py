"""The end of a command: what becomes of output that cannot be written, and how the process exits."""

import atexit
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from stratoscope.errors import print_error


@contextmanager
def output_may_close(command: str) -> Iterator[None]:
    """Drop the output of the block that stdout does not take: a reader may have closed the pipe, or the disk be full.

    What the command has done stands; only a full disk is worth a line on stderr.

    Args:
        command: name of the command, for the message.
    """
    try:
        yield
        _flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EBADF, errno.EIO):
            raise
        _discard_output()
        if error.errno != errno.EPIPE:
            with suppress(OSError):
                print_error(command, f"stdout cannot be written ({os.strerror(error.errno)}); the rest is left out")


def say(line: str) -> None:
    """Print a line on stdout at once, or drop it if stdout does not take it."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        _discard_output()


def end_process(code: int) -> NoReturn:
    """End this process with an exit code, once everything is written and closed.

    Libraries leave threads of their own behind (Ray's core worker and its gRPC, Arrow's and torch's pools), and the
    destructors that a regular exit runs may take away what these threads use: the process then ends with a segmentation
    fault now and then, after a finished run. So the handlers of `atexit` run, and then the process ends at once.
    """
    with output_may_close("stratoscope"):
        pass
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    with suppress(BaseException):
        atexit._run_exitfuncs()
    os._exit(code)


def _flush() -> None:
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def _discard_output() -> None:
    """Let further output on stdout lead nowhere, also that which is buffered already."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
