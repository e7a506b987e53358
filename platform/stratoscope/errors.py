"""The errors that every floor of the package may raise, each with a message for the user, and the exit codes."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_REGRESSION = 0, 1, 2, 3
"""Exit codes of commands; a regression is what an audit reports."""


class InputError(ValueError):
    """Input or configuration was refused; the message says what, where and how to mend it.

    A job that ends with it exits 2 and prints the message alone, without a traceback.
    """


class RunError(RuntimeError):
    """A run failed in a way that its message says whole: no cause has to be looked for behind it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name closest to `name`, or nothing if none is close."""
    matches = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def suggest(name: str, known: Iterable[str], kind: str) -> str:
    """Return the end of a sentence that refuses a name: the nearest known one, and all of them.

    Args:
        name: the refused name.
        known: the names that would do.
        kind: what they are, in the plural.
    """
    names = sorted(known)
    return f"{nearest(name, names) or '.'} Known {kind}: {', '.join(names)}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def print_error(command: str, message: str) -> None:
    """Print the one line of a refused or failed command to stderr."""
    print(f"{command}: {' '.join(message.split())}", file=sys.stderr)


def last_line(text: str) -> str:
    """Return the last line of a traceback or of a process's stderr; nothing where it is empty."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
