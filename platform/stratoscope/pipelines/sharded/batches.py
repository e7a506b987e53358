"""Running the batches of a shard so that a failure loses only the unit that causes it."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from stratoscope.errors import type_and_message
from stratoscope.execution import Attempt, BrokenProcessError, WorkMetrics

CRASHED = "the process died each time this was run, most likely because memory ran out"

Result = TypeVar("Result")
Finish = Callable[[], tuple[int, int]]
"""Waits for a batch, stores its result, and returns its numbers of tokens without and with padding."""
Measure = Callable[[Sequence[int]], Finish]
"""Starts a batch of units on its device. If it or the returned function raises an error, it has no effect."""
BATCHES_AHEAD = 1
"""Number of batches on a GPU while the result of another batch is stored."""


@dataclass
class BatchOutcome:
    """Outcome of the batches of a shard."""

    errors: dict[int, str] = field(default_factory=dict)
    """Error messages, by unit."""
    padded: int = 0
    """Number of tokens in all batches, padding included."""
    halved: int = 0
    """Number of batches that were run again in halves."""


def batches_ahead(device: torch.device) -> int:
    """Return how many batches may be on a device while another starts.

    A CPU runs each batch in the call that starts it, so there are none.
    """
    return BATCHES_AHEAD if device.type == "cuda" else 0


def run_batches(
    batches: Sequence[Sequence[int]],
    measure: Measure,
    attempt: Attempt,
    metrics: WorkMetrics | None = None,
    *,
    ahead: int = 0,
) -> BatchOutcome:
    """Run batches, and run a failed batch again in halves until only the failing units are lost.

    Results are stored in order of the batches.

    Args:
        batches: the units of each batch; the same at every attempt.
        measure: starts a batch.
        attempt: the record of earlier attempts. After a crash, no batch starts ahead, so that the last recorded
            units are those that caused the crash.
        metrics: counts the batches.
        ahead: number of batches that may be on the device while another starts.

    Raises:
        BrokenProcessError: the device is in a state that only a new process recovers.
    """
    runner = _Runner(measure, attempt, metrics, ahead if attempt.number == 1 else 0)
    runnable, given_up = attempt.plan_batches(batches)
    runner.outcome.errors = dict.fromkeys(given_up, CRASHED)
    for batch in runnable:
        runner.start(batch)
    runner.finish_all()
    attempt.note(())
    return runner.outcome


@dataclass
class _Started:
    """A batch on its device."""

    units: Sequence[int]
    finish: Finish
    time: float


class _Runner:
    """Runs batches. Several of them may be on the device at the same time.

    Args:
        measure: starts a batch.
        attempt: records batches before they start.
        metrics: counts the batches.
        ahead: number of batches that may be on the device while another starts.
    """

    def __init__(self, measure: Measure, attempt: Attempt, metrics: WorkMetrics | None, ahead: int) -> None:
        self._measure, self._attempt, self._metrics, self._ahead = measure, attempt, metrics, ahead
        self._started: deque[_Started] = deque()
        self.outcome = BatchOutcome()

    def start(self, units: Sequence[int]) -> None:
        """Start a batch, and finish the oldest batches until at most `ahead` remain on the device."""
        self._attempt.note(units)
        started = time.perf_counter()
        finish, error = _call(lambda: self._measure(units))
        if finish is None:
            self.finish_all()  # results are stored in order
            self._halve(units, error)
            return
        self._started.append(_Started(units, finish, started))
        while len(self._started) > self._ahead:
            self._finish_first()

    def finish_all(self) -> None:
        """Finish all batches that were started."""
        while self._started:
            self._finish_first()

    def _finish_first(self) -> None:
        batch = self._started.popleft()
        counted, error = _call(batch.finish)
        if counted is None:
            self._halve(batch.units, error)
            return
        tokens, padded = counted
        self.outcome.padded += padded
        if self._metrics:
            self._metrics.batch(len(batch.units), tokens, time.perf_counter() - batch.time)

    def _halve(self, units: Sequence[int], error: str) -> None:
        """Run a failed batch again in halves, each to its end. A failed unit on its own is lost."""
        if len(units) == 1:
            self.outcome.errors[units[0]] = error
            return
        self.outcome.halved += 1
        middle = len(units) // 2
        for half in (units[:middle], units[middle:]):
            alone = _Runner(self._measure, self._attempt, self._metrics, ahead=0)
            alone.outcome = self.outcome
            alone.start(half)


def _call(function: Callable[[], Result]) -> tuple[Result | None, str]:
    """Return the result of a function. If it fails, release its GPU memory and return None and the error.

    Raises:
        BrokenProcessError: the device is in a state that only a new process recovers.
    """
    try:
        return function(), ""
    except torch.OutOfMemoryError as error:
        failure = type_and_message(error)
    except torch.AcceleratorError as error:
        # The device stays in this state, so every later call would fail.
        raise BrokenProcessError(type_and_message(error)) from error
    except Exception as error:  # a model's code may raise anything
        failure = type_and_message(error)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None, failure
