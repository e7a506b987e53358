"""Kinds of configuration fields, used as annotations, and validators of list fields: `Annotated[list[...], DISTINCT]`.

Every number in a configuration has a kind, so that negative, huge and otherwise meaningless values are always
refused. `ConfigSection` refuses NaN, infinity and empty text in all fields.
"""

import os
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from stratoscope.errors import suggest

MAX_PLACE, MAX_PART = 4000, 255
"""Maximum number of bytes of a path, and of a name in it, as in common file systems."""
MAX_COUNT = 10**9
"""Largest allowed count."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Seed of random numbers, in the range that all libraries accept."""
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
"""Count of at least one."""


def _count_or_auto(value: object) -> object:
    if value != "auto" and not (str(value).isdecimal() and int(str(value)) >= 1):
        raise ValueError("must be auto, or a whole number of at least 1")
    return value


CountOrAuto = Annotated[Count | Literal["auto"], BeforeValidator(_count_or_auto)]
"""Count of at least one, or auto."""
CountOrZero = Annotated[int, Field(ge=0, le=MAX_COUNT)]
"""Count of at least zero."""
Draws = Annotated[int, Field(ge=1, le=100_000)]
"""Number of random draws, which are all kept in memory."""
DrawsOrZero = Annotated[int, Field(ge=0, le=100_000)]
"""Number of random draws, or zero."""
Workers = Annotated[int, Field(ge=1, le=10_000)]
"""Number of processes."""
Cpus = Annotated[int, Field(ge=1, le=10_000)]
"""Number of CPUs of a process."""
Gpus = Annotated[float, Field(ge=0, le=10_000)]
"""Number of GPUs of a process; a fraction shares one."""
Positive = Annotated[float, Field(gt=0, le=1e6)]
"""Number above 0."""
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
"""Number of at least 0."""
Fraction = Annotated[float, Field(gt=0, lt=1)]
"""Share of a whole, strictly between 0 and 1."""
FractionOrZero = Annotated[float, Field(ge=0, lt=1)]
"""Share of a whole, at least 0 and less than 1."""
FractionOrOne = Annotated[float, Field(gt=0, le=1)]
"""Share of a whole, greater than 0 and at most 1."""
Seconds = Annotated[float, Field(gt=0, le=86_400)]
"""Time in seconds, at most a day."""
Hours = Annotated[float, Field(gt=0, le=10_000)]
"""Time in hours, at most a year or so."""


def _checked_place(name: str) -> str:
    parts = [len(os.fsencode(part)) for part in name.split("/")]
    if max(parts) > MAX_PART or sum(parts) + len(parts) > MAX_PLACE:
        raise ValueError(f"a path has at most {MAX_PLACE:,} bytes, and a name in it at most {MAX_PART}")
    return name


Place = Annotated[str, AfterValidator(_checked_place)]
"""Name or path of data or a model, a folder, or a URL."""


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("the same value is given twice")
    return values


DISTINCT = AfterValidator(_distinct)


def named(known: Collection[str] | Callable[[], Collection[str]], kind: str) -> AfterValidator:
    """Return a validator that refuses unknown names.

    Args:
        known: the known names, or a function that returns them if this requires imports.
        kind: what a name refers to, in the singular, for messages.
    """

    def check(names: list[str]) -> list[str]:
        for name in names:
            if name not in (accepted := known() if callable(known) else known):
                raise ValueError(f"{name!r} is no {kind}{suggest(name, accepted, f'{kind}s')}")
        return names

    return AfterValidator(check)
