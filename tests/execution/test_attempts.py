import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.execution import FIRST_ATTEMPT, Attempt
from stratoscope.execution.attempts import (
    CRASHES_OF_A_UNIT,
    CRASHES_OF_A_WHOLE_BATCH,
    CRASHES_OUTSIDE_A_BATCH,
    AttemptTracker,
)


def run_shard(tracker: AttemptTracker, batches: list[list[int]], killers: set[int]) -> tuple[list[int], list[int], int]:
    """Attempt a shard until it succeeds; a batch that contains a killer ends the attempt."""
    for crashes in range(1000):
        attempt = tracker.begin(7)
        assert attempt is not None
        runnable, given_up = Attempt(*attempt).plan_batches(batches)
        for batch in runnable:
            assert tracker.note(7, batch)
            if killers & set(batch):
                break
        else:
            tracker.finish(7)
            return [unit for batch in runnable for unit in batch], given_up, crashes
    raise AssertionError("no end")


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.data())
def test_just_the_killers_are_given_up_after_a_bounded_number_of_crashes(sizes: list[int], data: st.DataObject) -> None:
    units = iter(range(sum(sizes)))
    batches = [[next(units) for _ in range(size)] for size in sizes]
    killers = data.draw(st.sets(st.integers(0, sum(sizes) - 1), max_size=3))
    done, given_up, crashes = run_shard(AttemptTracker(), batches, killers)
    assert sorted(given_up) == sorted(killers)
    assert sorted(done + given_up) == list(range(sum(sizes)))
    per_killer = CRASHES_OF_A_WHOLE_BATCH + max(sizes).bit_length() + CRASHES_OF_A_UNIT
    assert crashes <= per_killer * len(killers)


def test_one_crash_changes_no_batch() -> None:
    batches = [[0, 1, 2], [3, 4]]
    assert FIRST_ATTEMPT.plan_batches(batches) == (batches, [])
    assert Attempt(2, {(3, 4): 1}).plan_batches(batches) == (batches, [])
    assert Attempt(3, {(3, 4): 2}).plan_batches(batches) == ([[0, 1, 2], [3], [4]], [])


def test_a_shard_that_is_lost_after_it_went_through_has_not_crashed() -> None:
    tracker = AttemptTracker()
    assert tracker.begin(1) == (1, {})
    tracker.note(1, [0])
    tracker.finish(1)
    assert tracker.begin(1) == (2, {})


def test_a_shard_that_loses_its_process_without_a_batch_ends_the_run() -> None:
    tracker = AttemptTracker()
    for _ in range(CRASHES_OUTSIDE_A_BATCH + 1):
        tracker.begin(3)
    with pytest.raises(RuntimeError, match="shard 3 lost its process 21 times before it ran a batch"):
        tracker.begin(3)


def test_stopping_lets_started_shards_end_and_starts_no_other() -> None:
    tracker = AttemptTracker()
    tracker.begin(1)
    assert tracker.note(1, [0])
    tracker.begin(2)
    tracker.stop()
    assert tracker.note(1, [1]), "the shard has started"
    assert not tracker.note(2, [0]), "the shard has run no batch"
    assert tracker.begin(3) is None


def test_deaths_while_loading_are_counted_by_actor_and_forgotten_when_it_is_ready() -> None:
    tracker = AttemptTracker()
    assert [tracker.load("a"), tracker.load("b"), tracker.load("a")] == [0, 0, 1]
    tracker.ready("a")
    assert tracker.load("a") == 0


def test_a_crash_after_the_last_batch_is_blamed_on_no_unit() -> None:
    """Another shard in the same process may cause it, while this one writes its results."""
    tracker = AttemptTracker()
    for number in range(1, 6):
        assert tracker.begin(1) == (number, {(): number - 1} if number > 1 else {})
        assert tracker.note(1, [0])
        assert tracker.note(1, [])
