"""Attempts at a shard, remembered outside the actors: a crash tells what was in work, and cannot repeat for ever.

An actor notes the units of a batch before it runs them. If its process dies, the next attempt at the shard runs that
batch once more as it was, for most crashes are a lost node. After a second crash the batch is halved, and halved again,
until the units that kill their actor stand alone; those are given up and the others done.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Units = tuple[int, ...]

CRASHES_OF_A_WHOLE_BATCH = 2
CRASHES_OF_A_UNIT = 2
CRASHES_OUTSIDE_A_BATCH = 20
"""Of a shard that had nothing in work; mostly another shard's batch took the process along."""
DEATHS_WHILE_LOADING = 3
"""Of one actor, one after the other, before it is ready."""


class StoppedError(RuntimeError):
    """The run is to end, and this shard has not been started."""


class BrokenProcessError(RuntimeError):
    """The process cannot go on, though it lives: what it would compute from now on cannot be trusted."""


def _ignore(_units: Sequence[int]) -> None:
    """Note nothing: outside a pool of actors a crash ends the run anyway."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a shard, as its worker sees it."""

    number: int = 1
    crashes: Mapping[Units, int] = field(default_factory=dict)
    """How often the process died with these units in work."""
    note: Callable[[Sequence[int]], None] = _ignore
    """To be called with the units of a batch before they are run."""

    def divide(self, batches: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
        """Divide the batches of a shard so that the units that kill their process are found.

        Args:
            batches: the units of each batch; the same at every attempt.

        Returns:
            The batches to run, and the units to give up.
        """
        runnable: list[list[int]] = []
        given_up: list[int] = []
        for batch in batches:
            self._divide(list(batch), CRASHES_OF_A_WHOLE_BATCH, runnable, given_up)
        return runnable, given_up

    def _divide(self, units: list[int], allowed: int, runnable: list[list[int]], given_up: list[int]) -> None:
        allowed = CRASHES_OF_A_UNIT if len(units) == 1 else allowed
        if self.crashes.get(tuple(units), 0) < allowed:
            runnable.append(units)
        elif len(units) == 1:
            given_up += units
        else:
            middle = len(units) // 2
            self._divide(units[:middle], 1, runnable, given_up)
            self._divide(units[middle:], 1, runnable, given_up)


FIRST_ATTEMPT = Attempt()


class AttemptTracker:
    """Remembers the attempts at all shards of a run. It lives in an actor of its own, beside the driver."""

    def __init__(self) -> None:
        self._stopping = False
        self._in_work: dict[int, Units | None] = {}
        """Of the shards that were begun and not finished; None while no batch is being run."""
        self._attempts: Counter[int] = Counter()
        self._crashes: dict[int, Counter[Units]] = {}
        self._loading: Counter[str] = Counter()

    def load(self, actor: str) -> int:
        """Note that an actor starts to load, and return how often it died since it was last ready."""
        self._loading[actor] += 1
        return self._loading[actor] - 1

    def ready(self, actor: str) -> None:
        """Note that an actor has loaded."""
        self._loading[actor] = 0

    def begin(self, shard: int) -> tuple[int, dict[Units, int]] | None:
        """Note that an attempt begins; return its number and the crashes so far, by the units that were in work.

        Returns None where no shard is to be started any more.

        Raises:
            RuntimeError: the shard has lost its process too often for no reason that could be found.
        """
        if self._stopping:
            return None
        crashes = self._crashes.setdefault(shard, Counter())
        if shard in self._in_work:
            crashes[self._in_work[shard] or ()] += 1
        if crashes[()] > CRASHES_OUTSIDE_A_BATCH:
            raise RuntimeError(f"shard {shard} lost its process {crashes[()]} times before it ran a batch")
        self._in_work[shard] = None
        self._attempts[shard] += 1
        return self._attempts[shard], dict(crashes)

    def note(self, shard: int, units: Sequence[int]) -> bool:
        """Note the units that are about to be run, and tell whether to run them.

        They are not to be run where that would start a shard when no other is to be started.
        """
        if self._stopping and self._in_work[shard] is None:
            del self._in_work[shard]
            return False
        self._in_work[shard] = tuple(units)
        return True

    def stop(self) -> None:
        """Let the shards that were started end, and start no other."""
        self._stopping = True

    def finish(self, shard: int) -> None:
        """Note that an attempt went through."""
        self._in_work.pop(shard, None)
