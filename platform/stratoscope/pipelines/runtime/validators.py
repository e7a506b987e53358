"""Validators for list fields of configurations, used as `Annotated[list[...], VALIDATOR]`."""

from collections.abc import Callable, Collection
from typing import Any

from pydantic import AfterValidator

from stratoscope.errors import suggest


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise ValueError("the same value is given twice")
    return values


def _positive(values: list[Any]) -> list[Any]:
    if any(value <= 0 for value in values):
        raise ValueError("all values must be above 0")
    return values


def _not_negative(values: list[Any]) -> list[Any]:
    if any(value < 0 for value in values):
        raise ValueError("no value may be below 0")
    return values


def _shares(values: list[Any]) -> list[Any]:
    if any(not 0 < value < 1 for value in values):
        raise ValueError("all values must lie between 0 and 1")
    return values


DISTINCT = AfterValidator(_distinct)
NOT_NEGATIVE = AfterValidator(_not_negative)
POSITIVE = AfterValidator(_positive)
SHARES = AfterValidator(_shares)


def named(known: Collection[str] | Callable[[], Collection[str]], kind: str) -> AfterValidator:
    """Return a validator that refuses unknown names.

    Args:
        known: the known names, or what returns them where that takes imports.
        kind: what a name stands for, in the singular, for messages.
    """

    def check(names: list[str]) -> list[str]:
        for name in names:
            if name not in (accepted := known() if callable(known) else known):
                raise ValueError(f"{name!r} is no {kind}{suggest(name, accepted, f'{kind}s')}")
        return names

    return AfterValidator(check)
