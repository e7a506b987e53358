"""What lies behind an error that Ray has wrapped."""

from collections.abc import Iterator

from ray.exceptions import ActorDiedError

from stratoscope.errors import first_line


def root_cause(error: BaseException) -> str:
    """Return type and message of the innermost error that is not Ray's own, as one line.

    Of an actor that could not be made, Ray keeps that error only as the end of a text.
    """
    chain = list(_chain(error))
    others = [e for e in chain if not type(e).__module__.startswith("ray.")]
    if others:
        return f"{type(others[-1]).__name__}: {first_line(others[-1])}"
    died = next((e for e in chain if isinstance(e, ActorDiedError)), None)
    if died is not None:
        return str(died).strip().splitlines()[-1]
    return f"{type(error).__name__}: {first_line(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = _behind(error)


def _behind(error: BaseException) -> BaseException | None:
    """Return what an error was raised for; Ray Train keeps those of its workers and its controller apart."""
    workers: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if workers:
        return next(iter(workers.values()))
    for name in ("cause", "controller_failure", "base_exc"):
        found = getattr(error, name, None)
        if isinstance(found, BaseException):
            return found
    return error.__cause__
