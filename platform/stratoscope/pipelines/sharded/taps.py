"""The taps that a run has read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def taps_read(taps: Sequence[str], facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the taps of a configuration without those that the model does not let read.

    Args:
        taps: taps of the configuration.
        facts: facts of the run's manifest.
    """
    return tuple(str(tap) for tap in taps if str(tap) not in facts.get("withdrawn", {}))


def taps_with_equal_quantiles(
    thresholds: Iterable[tuple[str | None, str | None, float | None]], number: int
) -> list[str]:
    """Return the taps at which several quantiles have the same threshold, since thresholds are edges of bins.

    Args:
        thresholds: tap, kind and value of the threshold of each score.
        number: number of quantiles in the configuration.
    """
    by_tap: dict[str, set[float | None]] = {}
    for tap, kind, epsilon in thresholds:
        if tap is not None and kind == "quantile":
            by_tap.setdefault(tap, set()).add(epsilon)
    return [tap for tap, values in by_tap.items() if len(values) < number]
