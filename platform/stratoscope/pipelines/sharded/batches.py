"""Running the batches of a shard so that a failure loses only the unit that causes it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from stratoscope.errors import type_and_message
from stratoscope.execution import Attempt, BrokenProcessError, WorkMetrics

CRASHED = "the process died each time this was run, most likely because memory ran out"

Measure = Callable[[Sequence[int]], tuple[int, int]]
"""Runs a batch of units and stores its result; returns its number of tokens without and with padding."""


@dataclass
class BatchOutcome:
    """Outcome of the batches of a shard."""

    errors: dict[int, str] = field(default_factory=dict)
    """Error messages, by unit."""
    padded: int = 0
    """Number of tokens in all batches, padding included."""
    halved: int = 0
    """Number of batches that were run again in halves."""


def run_batches(
    batches: Sequence[Sequence[int]], measure: Measure, attempt: Attempt, metrics: WorkMetrics | None = None
) -> BatchOutcome:
    """Run batches, and run a failed batch again in halves until only the failing units are lost.

    Args:
        batches: the units of each batch; the same at every attempt.
        measure: runs a batch; it has no effect if it raises.
        attempt: the record of earlier attempts.
        metrics: counts the batches.

    Raises:
        BrokenProcessError: the device is in a state that only a new process recovers.
    """
    outcome = BatchOutcome()
    runnable, given_up = attempt.plan_batches(batches)
    outcome.errors = dict.fromkeys(given_up, CRASHED)
    for batch in runnable:
        _run(batch, measure, attempt, metrics, outcome)
    return outcome


def _run(
    batch: Sequence[int], measure: Measure, attempt: Attempt, metrics: WorkMetrics | None, outcome: BatchOutcome
) -> None:
    error = _pass(batch, measure, attempt, metrics, outcome)
    if error is None:
        return
    if len(batch) == 1:
        outcome.errors[batch[0]] = error
        return
    outcome.halved += 1
    middle = len(batch) // 2
    _run(batch[:middle], measure, attempt, metrics, outcome)
    _run(batch[middle:], measure, attempt, metrics, outcome)


def _pass(
    batch: Sequence[int], measure: Measure, attempt: Attempt, metrics: WorkMetrics | None, outcome: BatchOutcome
) -> str | None:
    """Run one batch and return its error, if any, after its memory was released."""
    attempt.note(batch)
    started = time.perf_counter()
    try:
        tokens, padded = measure(batch)
    except torch.OutOfMemoryError as error:
        failure = type_and_message(error)
    except torch.AcceleratorError as error:
        # The device stays in this state: every later call would fail.
        raise BrokenProcessError(type_and_message(error)) from error
    except Exception as error:  # a model's code may raise anything
        failure = type_and_message(error)
    else:
        outcome.padded += padded
        if metrics:
            metrics.batch(len(batch), tokens, time.perf_counter() - started)
        return None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return failure
