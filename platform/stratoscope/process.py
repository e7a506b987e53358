"""The end of a command: handling of output that cannot be written, and the exit of the process."""

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
    """Drop output of the block that cannot be written to stdout, because the pipe is closed or the disk is full.

    The command's results are kept. A closed pipe is ignored; any other reason is reported in a line on stderr.

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
    """Print a line to stdout and flush it, or drop the line if stdout cannot be written."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        _discard_output()


def end_process(code: int) -> NoReturn:
    """End this process with an exit code, once everything is written and closed.

    Libraries leave threads running (Ray's core worker and its gRPC, Arrow's and torch's pools). A regular exit runs
    destructors that may free objects these threads still use, so the process occasionally crashes with a segmentation
    fault after a finished run. Therefore only the `atexit` handlers run, and then the process ends at once.
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
    """Discard all further output on stdout, including output that is already buffered."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
