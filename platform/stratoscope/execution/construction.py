"""Construction of workers inside their own processes."""

from collections.abc import Callable
from typing import Any

from ray import cloudpickle

from stratoscope.process import rare_collection


def pack(make: Callable[[], Any]) -> bytes:
    """Return a constructor as bytes, so that what it needs is imported by `construct` and not by Ray before it."""
    return bytes(cloudpickle.dumps(make))  # type: ignore[no-untyped-call]


def construct(packed: bytes) -> Any:
    """Import what a constructor needs, and return the worker that it makes."""
    with rare_collection():
        return cloudpickle.loads(packed)()
