"""Errors with a message for the user, the formatting of messages, and the exit codes of commands."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_REGRESSION = 0, 1, 2, 3
"""Exit codes of commands; a regression is what an audit reports."""


class InputError(ValueError):
    """Input or configuration was refused; the message says what is wrong, where, and how to fix it.

    A job that ends with it exits 2 and prints the message alone, without a traceback.
    """


class DamagedFileError(InputError):
    """A file of a run is truncated or damaged; the message names it."""

    def __init__(self, file: str, error: BaseException | str, advice: str = "") -> None:
        advice = advice or "repeat the command with the same run_id to compute it again"
        super().__init__(f"{file} cannot be read, it is truncated or damaged ({first_line(error)[:120]}); {advice}")


class RunError(RuntimeError):
    """A run failed for a reason that the message states completely; no traceback is needed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name closest to `name`, or nothing if none is close."""
    matches = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def suggest(name: str, known: Iterable[str], kind: str) -> str:
    """Return the end of a sentence that refuses a name: the nearest known one, and all of them.

    Args:
        name: the refused name.
        known: the accepted names.
        kind: plural noun for the names, such as 'sets'.
    """
    names = sorted(known)
    return f"{nearest(name, names) or '.'} Known {kind}: {', '.join(names)}"


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message, or the error's type if the message is empty."""
    return _lines(error)[0]


def last_line(error: BaseException | str) -> str:
    """Return the last line of an error's message or traceback, or the error's type if the message is empty."""
    return _lines(error)[-1]


def type_and_message(error: BaseException) -> str:
    """Return an error's type and the first line of its message, as the last line of a traceback shows them."""
    return f"{type(error).__name__}: {first_line(error)}"


def _lines(error: BaseException | str) -> list[str]:
    return str(error).strip().splitlines() or ["" if isinstance(error, str) else type(error).__name__]


def print_error(command: str, message: str) -> None:
    """Print the one line of a refused or failed command to stderr."""
    print(f"{command}: {' '.join(message.split())}", file=sys.stderr)
