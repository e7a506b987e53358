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


def run_shard(ledger: AttemptTracker, batches: list[list[int]], killers: set[int]) -> tuple[list[int], list[int], int]:
    """Attempt a shard until it goes through; a batch that holds a killer ends the attempt."""
    for crashes in range(1000):
        begun = ledger.begin(7)
        assert begun is not None
        runnable, given_up = Attempt(*begun).divide(batches)
        for batch in runnable:
            assert ledger.note(7, batch)
            if killers & set(batch):
                break
        else:
            ledger.finish(7)
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
    assert FIRST_ATTEMPT.divide(batches) == (batches, [])
    assert Attempt(2, {(3, 4): 1}).divide(batches) == (batches, [])
    assert Attempt(3, {(3, 4): 2}).divide(batches) == ([[0, 1, 2], [3], [4]], [])


def test_a_shard_that_is_lost_after_it_went_through_has_not_crashed() -> None:
    ledger = AttemptTracker()
    assert ledger.begin(1) == (1, {})
    ledger.note(1, [0])
    ledger.finish(1)
    assert ledger.begin(1) == (2, {})


def test_a_shard_that_loses_its_process_without_a_batch_ends_the_run() -> None:
    ledger = AttemptTracker()
    for _ in range(CRASHES_OUTSIDE_A_BATCH + 1):
        ledger.begin(3)
    with pytest.raises(RuntimeError, match="shard 3 lost its process 21 times before it ran a batch"):
        ledger.begin(3)


def test_stopping_lets_started_shards_end_and_starts_no_other() -> None:
    ledger = AttemptTracker()
    ledger.begin(1)
    assert ledger.note(1, [0])
    ledger.begin(2)
    ledger.stop()
    assert ledger.note(1, [1]), "it is on its way"
    assert not ledger.note(2, [0]), "it has not begun"
    assert ledger.begin(3) is None


def test_deaths_while_loading_are_counted_by_actor_and_forgotten_when_it_is_ready() -> None:
    ledger = AttemptTracker()
    assert [ledger.load("a"), ledger.load("b"), ledger.load("a")] == [0, 0, 1]
    ledger.ready("a")
    assert ledger.load("a") == 0
