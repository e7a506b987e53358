"""Running the batches of a shard so that what fails is lost alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from stratoscope.execution import Attempt, BrokenProcessError, WorkMetrics

CRASHED = "the process died each time that this was run, most likely for want of memory"

Measure = Callable[[Sequence[int]], tuple[int, int]]
"""Runs a batch, given by its units, and keeps what it yields; returns its tokens without padding and with it."""


@dataclass
class BatchOutcome:
    """How the batches of a shard went."""

    errors: dict[int, str] = field(default_factory=dict)
    """What went wrong, by unit."""
    padded: int = 0
    """Tokens of all batches, padding included."""
    halved: int = 0
    """Batches that were run again in halves."""


def run_batches(
    batches: Sequence[Sequence[int]], measure: Measure, attempt: Attempt, metrics: WorkMetrics | None = None
) -> BatchOutcome:
    """Run batches; of one that fails run the halves, so that only the culprit is lost.

    Args:
        batches: the units of each; the same at every attempt.
        measure: runs one, and has no effect where it raises.
        attempt: what earlier attempts have shown.
        metrics: told of each batch.

    Raises:
        BrokenProcessError: the device is in a state that only a new process mends.
    """
    ran = BatchOutcome()
    runnable, given_up = attempt.plan_batches(batches)
    ran.errors = dict.fromkeys(given_up, CRASHED)
    for batch in runnable:
        _run(batch, measure, attempt, metrics, ran)
    return ran


def _run(
    batch: Sequence[int], measure: Measure, attempt: Attempt, metrics: WorkMetrics | None, ran: BatchOutcome
) -> None:
    error = _pass(batch, measure, attempt, metrics, ran)
    if error is None:
        return
    if len(batch) == 1:
        ran.errors[batch[0]] = error
        return
    ran.halved += 1
    middle = len(batch) // 2
    _run(batch[:middle], measure, attempt, metrics, ran)
    _run(batch[middle:], measure, attempt, metrics, ran)


def _pass(
    batch: Sequence[int], measure: Measure, attempt: Attempt, metrics: WorkMetrics | None, ran: BatchOutcome
) -> str | None:
    """Run one batch and return what went wrong, if anything: by then the memory it took is free again."""
    attempt.note(batch)
    started = time.perf_counter()
    try:
        tokens, padded = measure(batch)
    except torch.OutOfMemoryError as error:
        failure = _one_line(error)
    except torch.AcceleratorError as error:
        # Such an error stays with the device: every later call would fail for it.
        raise BrokenProcessError(_one_line(error)) from error
    except Exception as error:  # whatever a model's code raises, it is this batch's alone
        failure = _one_line(error)
    else:
        ran.padded += padded
        if metrics:
            metrics.batch(len(batch), tokens, time.perf_counter() - started)
        return None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return failure


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0]
