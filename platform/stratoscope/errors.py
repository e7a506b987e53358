"""Errors with a message for the user, the formatting of messages, and the exit codes of commands."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_REGRESSION = 0, 1, 2, 3
"""Exit codes of commands; a regression is what an audit reports."""
EXIT_CODES = {
    EXIT_DONE: "done",
    EXIT_FAILED: "failed while running; stderr has the cause in one line, `log.txt` the details",
    EXIT_REFUSED: "input or configuration refused; one line states what is wrong and how to correct it",
    EXIT_REGRESSION: "an audit has found a regression",
}
"""Meanings of the exit codes."""


MAX_MESSAGE = 500
"""Maximum number of characters of a message for the user."""
SHOWN_VALUE = 80
"""Maximum number of characters of a refused value that a message quotes."""
SHOWN_NAMES = 12
"""Maximum number of known names that a message lists."""


def shorten(text: str, length: int = MAX_MESSAGE) -> str:
    """Return the text, shortened to at most `length` characters by removing its middle."""
    if len(text) <= length:
        return text
    end = (length - 3) // 3
    return f"{text[: length - 3 - end]}...{text[len(text) - end :]}"


class InputError(ValueError):
    """Input or configuration was refused; the message says what is wrong, where, and how to fix it.

    A job that raises it exits with code 2 and prints only the message, without a traceback. A message of more than
    `MAX_MESSAGE` characters loses its middle.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(shorten(message))


class DamagedFileError(InputError):
    """A file of a run is truncated or damaged; the message names it."""

    def __init__(self, file: str, error: BaseException | str, advice: str = "") -> None:
        advice = advice or "repeat the command with the same run_id to compute it again"
        super().__init__(f"{file} cannot be read, it is truncated or damaged ({first_line(error)[:120]}); {advice}")


class RunError(RuntimeError):
    """A run failed for a reason that the message states completely; no traceback is needed."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shorten(message))


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, or None if none is close."""
    return next(iter(get_close_matches(name[:SHOWN_VALUE], sorted(known), n=1, cutoff=0.6)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name closest to `name`, or nothing if none is close."""
    match = closest(name, known)
    return "" if match is None else f"; did you mean {match!r}?"


def suggest(name: str, known: Iterable[str], kind: str) -> str:
    """Return the end of a sentence that refuses a name: the nearest known one, and all of them.

    Args:
        name: the refused name.
        known: the accepted names.
        kind: plural noun for the names, such as 'sets'.
    """
    names = sorted(known)
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{nearest(name, names) or '.'} Known {kind}: {', '.join(names[:SHOWN_NAMES])}{more}"


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message, or the error's type if the message is empty.

    A first line that ends with a colon announces the next one, which is then part of it.
    """
    first, *others = _lines(error)
    return f"{first} {others[0].strip()}" if first.endswith(":") and others else first


def last_line(error: BaseException | str) -> str:
    """Return the last line of an error's message or traceback, or the error's type if the message is empty."""
    return _lines(error)[-1]


def type_and_message(error: BaseException) -> str:
    """Return an error's type and the first line of its message, as the last line of a traceback shows them."""
    return f"{type(error).__name__}: {first_line(error)}"


def _lines(error: BaseException | str) -> list[str]:
    return str(error).strip().splitlines() or ["" if isinstance(error, str) else type(error).__name__]


def print_error(command: str, message: str) -> None:
    """Print the one line of a refused or failed command to stderr, of at most `MAX_MESSAGE` characters."""
    print(shorten(f"{command}: {' '.join(message.split())}"), file=sys.stderr)
