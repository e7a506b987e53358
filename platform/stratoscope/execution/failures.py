"""Errors that Ray wraps: their root causes, and late starts, which are tried once more."""

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

from stratoscope.errors import RunError, last_line, type_and_message
from stratoscope.phases import phase

Result = TypeVar("Result")
LATE_STARTS = ("timed out during startup", "not registered within the timeout")
"""Parts of Ray's messages about a node or worker that has not started in time."""
logger = logging.getLogger(__name__)


def started_late(error: BaseException) -> bool:
    """Return whether an error means that a node or a worker of Ray did not start in time."""
    return any(text in str(each) for each in _chain(error) for text in LATE_STARTS)


def late_start_error(error: BaseException) -> RunError:
    """Return the error for a second late start, which names what to check."""
    return RunError(
        f"Ray did not start in two attempts ({root_cause(error)}); look at the load and the free memory of the machine "
        "(uptime, free -h) and at raylet.out and gcs_server.out in /tmp/ray/session_latest/logs, and repeat the command"
    )


def start_again(start: Callable[[], Result], clean_up: Callable[[], object] = lambda: None) -> Result:
    """Call a function that starts part of Ray, and call it once more if a node or worker did not start in time.

    Args:
        start: the function.
        clean_up: removes what the first attempt has left.

    Raises:
        RunError: it did not start in time twice.
    """
    try:
        return start()
    except Exception as error:
        if not started_late(error):
            raise
        logger.warning("a second attempt to start: %s", root_cause(error))
        clean_up()
    with phase("second attempt, since Ray did not start in time"):
        try:
            return start()
        except Exception as error:
            raise (late_start_error(error) if started_late(error) else error) from error


def root_cause(error: BaseException) -> str:
    """Return type and message of the innermost error that is not Ray's own, as one line.

    If the constructor of an actor failed, Ray keeps its error only as the end of a text.
    """
    chain = list(_chain(error))
    others = [e for e in chain if not type(e).__module__.startswith("ray.")]
    if others:
        return type_and_message(others[-1])
    from ray.exceptions import ActorDiedError

    died = next((e for e in chain if isinstance(e, ActorDiedError)), None)
    return type_and_message(error) if died is None else last_line(died)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = _cause(error)


def _cause(error: BaseException) -> BaseException | None:
    """Return the cause of an error; Ray Train keeps the errors of its workers and controller in attributes."""
    workers: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if workers:
        return next(iter(workers.values()))
    for name in ("cause", "controller_failure", "base_exc"):
        cause = getattr(error, name, None)
        if isinstance(cause, BaseException):
            return cause
    return error.__cause__
