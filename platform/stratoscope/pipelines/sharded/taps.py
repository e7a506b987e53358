"""The taps that a run has read."""

from collections.abc import Mapping, Sequence
from typing import Any


def taps_read(taps: Sequence[str], facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the taps of a configuration without those that the model does not let read.

    Args:
        taps: taps of the configuration.
        facts: facts of the run's manifest.
    """
    return tuple(str(tap) for tap in taps if str(tap) not in facts.get("withdrawn", {}))
