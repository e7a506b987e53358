"""Root causes of errors that Ray wraps."""

from collections.abc import Iterator

from ray.exceptions import ActorDiedError

from stratoscope.errors import last_line, type_and_message


def root_cause(error: BaseException) -> str:
    """Return type and message of the innermost error that is not Ray's own, as one line.

    If the constructor of an actor failed, Ray keeps its error only as the end of a text.
    """
    chain = list(_chain(error))
    others = [e for e in chain if not type(e).__module__.startswith("ray.")]
    if others:
        return type_and_message(others[-1])
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
