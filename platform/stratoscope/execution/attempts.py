"""Attempts at a shard, tracked outside its actor, so that a unit that crashes its process is isolated and skipped.

An actor records the units of a batch before it runs them. If its process dies, the next attempt at the shard runs the
same batch again, since most crashes are lost nodes. After a second crash the batch is bisected until the units that
crash their process stand alone. Those units are given up and all others are done.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

UnitBatch = tuple[int, ...]
"""Units of a shard, such as prompts, that run together."""

CRASHES_OF_A_WHOLE_BATCH = 2
CRASHES_OF_A_UNIT = 2
CRASHES_OUTSIDE_A_BATCH = 20
"""Crashes of a shard while it ran no batch; most are caused by a batch of another shard in the same process."""
DEATHS_WHILE_LOADING = 3
"""Consecutive deaths of one actor before it is ready."""


class StoppedError(RuntimeError):
    """The run is stopping, and this shard has not been started."""


class BrokenProcessError(RuntimeError):
    """The process is alive, but its further results cannot be trusted, for example after a CUDA error."""


def _ignore(_units: Sequence[int]) -> None:
    """Record nothing, because outside an actor pool a crash ends the run anyway."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a shard, as its worker sees it."""

    number: int = 1
    crashes: Mapping[UnitBatch, int] = field(default_factory=dict)
    """Number of crashes while these units ran."""
    note: Callable[[Sequence[int]], None] = _ignore
    """Records the units of a batch before it runs, and none after the last."""

    def plan_batches(self, batches: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
        """Bisect the batches that crashed their process, and give up single units that crashed it.

        Args:
            batches: the units of each batch; the same at every attempt.

        Returns:
            The batches to run, and the units to give up.
        """
        runnable: list[list[int]] = []
        given_up: list[int] = []
        for batch in batches:
            self._bisect(list(batch), CRASHES_OF_A_WHOLE_BATCH, runnable, given_up)
        return runnable, given_up

    def _bisect(self, units: list[int], allowed: int, runnable: list[list[int]], given_up: list[int]) -> None:
        allowed = CRASHES_OF_A_UNIT if len(units) == 1 else allowed
        if self.crashes.get(tuple(units), 0) < allowed:
            runnable.append(units)
        elif len(units) == 1:
            given_up += units
        else:
            middle = len(units) // 2
            self._bisect(units[:middle], 1, runnable, given_up)
            self._bisect(units[middle:], 1, runnable, given_up)


FIRST_ATTEMPT = Attempt()


class AttemptTracker:
    """Tracks the attempts at all shards of a run, in an actor on the driver's node."""

    def __init__(self) -> None:
        self._stopping = False
        self._running: dict[int, UnitBatch | None] = {}
        """Batch that each unfinished shard runs; None between batches."""
        self._attempts: Counter[int] = Counter()
        self._crashes: dict[int, Counter[UnitBatch]] = {}
        self._loading: Counter[str] = Counter()
        self._tuning: dict[str, Any] | None = None

    def agreed(self) -> dict[str, Any] | None:
        """Return what the workers have agreed on, or None if no worker has proposed anything yet."""
        return self._tuning

    def agree(self, proposal: dict[str, Any]) -> dict[str, Any]:
        """Return what all workers share: the first proposal."""
        self._tuning = proposal if self._tuning is None else self._tuning
        return self._tuning

    def load(self, actor: str) -> int:
        """Record that an actor starts to load, and return how often it died since it was last ready."""
        self._loading[actor] += 1
        return self._loading[actor] - 1

    def ready(self, actor: str) -> None:
        """Record that an actor has loaded."""
        self._loading[actor] = 0

    def state(self) -> tuple[int, int]:
        """Return how many actors are loading, and how many shards have been started."""
        return sum(number > 0 for number in self._loading.values()), len(self._attempts)

    def begin(self, shard: int) -> tuple[int, dict[UnitBatch, int]] | None:
        """Record that an attempt begins, and return its number and the crashes so far.

        Returns:
            The number of the attempt, and the number of crashes of each batch; None if no further shard may start.

        Raises:
            RuntimeError: the process of the shard died too often while it ran no batch.
        """
        if self._stopping:
            return None
        crashes = self._crashes.setdefault(shard, Counter())
        if shard in self._running:
            crashes[self._running[shard] or ()] += 1
        if crashes[()] > CRASHES_OUTSIDE_A_BATCH:
            raise RuntimeError(f"shard {shard} lost its process {crashes[()]} times before it ran a batch")
        self._running[shard] = None
        self._attempts[shard] += 1
        return self._attempts[shard], dict(crashes)

    def note(self, shard: int, units: Sequence[int]) -> bool:
        """Record the units that are about to run.

        Args:
            shard: number of the shard.
            units: the units; none once all batches of the shard have run, so that a crash of its process, which another
                shard may cause meanwhile, is not blamed on the last batch.

        Returns:
            Whether to run them; False if the run is stopping and this is the first batch of the shard.
        """
        if not units:
            self._running[shard] = ()
            return True
        if self._stopping and self._running[shard] is None:
            del self._running[shard]
            return False
        self._running[shard] = tuple(units)
        return True

    def stop(self) -> None:
        """Let started shards finish, and start no other."""
        self._stopping = True

    def finish(self, shard: int) -> None:
        """Record that an attempt succeeded."""
        self._running.pop(shard, None)
