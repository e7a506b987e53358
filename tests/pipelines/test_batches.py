"""Running the batches of a shard: the order of results, and what a failure costs."""

from collections.abc import Sequence

import pytest

from stratoscope.execution import Attempt
from stratoscope.pipelines.sharded.batches import CRASHED, BatchOutcome, Finish, run_batches

BATCHES = [[0, 1], [2, 3, 4], [5], [6, 7]]


class Device:
    """Starts and finishes batches, and fails on some units, when they start or later."""

    def __init__(self, fails_at_start: int | None = None, fails_later: int | None = None) -> None:
        self.fails_at_start, self.fails_later = fails_at_start, fails_later
        self.stored: list[list[int]] = []
        self.events: list[str] = []

    def __call__(self, units: Sequence[int]) -> Finish:
        self.events.append(f"start {units[0]}")
        if self.fails_at_start in units:
            raise ValueError("at the start")

        def finish() -> tuple[int, int]:
            self.events.append(f"finish {units[0]}")
            if self.fails_later in units:
                raise ValueError("later")
            self.stored.append(list(units))
            return len(units), 2 * len(units)

        return finish

    def run(self, ahead: int, attempt: Attempt | None = None) -> BatchOutcome:
        return run_batches(BATCHES, self, attempt or Attempt(), ahead=ahead)


@pytest.mark.parametrize(("at_start", "later"), [(None, None), (3, None), (None, 3), (0, 7), (6, 5), (5, 2)])
def test_results_are_the_same_however_many_batches_are_on_the_device(at_start: int | None, later: int | None) -> None:
    results = []
    for ahead in (0, 1, 2):
        device = Device(at_start, later)
        results.append((device.run(ahead), device.stored))
    assert results[0] == results[1] == results[2], "the same errors, and results stored in the same order"
    outcome, stored = results[0]
    lost = {unit for unit in (at_start, later) if unit is not None}
    assert set(outcome.errors) == lost
    assert sorted(unit for batch in stored for unit in batch) == sorted(set(range(8)) - lost)


def test_a_batch_starts_before_the_one_before_it_is_stored() -> None:
    alone, overlapping = Device(), Device()
    alone.run(0)
    overlapping.run(1)
    assert alone.events[:4] == ["start 0", "finish 0", "start 2", "finish 2"]
    assert overlapping.events[:4] == ["start 0", "start 2", "finish 0", "start 5"]


def test_no_batch_starts_ahead_after_a_crash() -> None:
    device = Device()
    recorded: list[int] = []
    attempt = Attempt(2, {(5,): 2}, recorded.extend)
    outcome = device.run(1, attempt)
    assert outcome.errors == {5: CRASHED}
    assert recorded == [0, 1, 2, 3, 4, 6, 7]
    assert device.events[:3] == ["start 0", "finish 0", "start 2"]


def test_nothing_is_recorded_as_running_once_all_batches_have_ended() -> None:
    recorded: list[list[int]] = []
    Device().run(1, Attempt(note=lambda units: recorded.append(list(units))))
    assert recorded == [*BATCHES, []]
