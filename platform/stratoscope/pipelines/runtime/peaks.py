"""Peaks over the workers of a run."""

from collections.abc import Mapping, Sequence


def highest(rows: Sequence[Mapping[str, float]], name: str) -> int | None:
    """Return the highest value of a quantity in all rows; None if a row, of an earlier version, lacks it."""
    values = [row[name] for row in rows if name in row]
    return int(max(values)) if values and len(values) == len(rows) else None
