"""Workers that go wrong in chosen ways, to be made inside real actors."""

import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stratoscope.execution import FIRST_ATTEMPT, Attempt
from stratoscope.pipelines.score.worker import ScoreWorker, ScoreWorkerSettings
from stratoscope.results import ShardResult

Trouble = Callable[["FaultyWorker", Sequence[int]], None]
"""Called with the token ids of each batch that holds the victim, before its forward pass."""


class FaultyWorker(ScoreWorker):
    """A worker to which something happens whenever a batch holds the victim's tokens."""

    def __init__(
        self, settings: ScoreWorkerSettings, trouble: "Trouble | None", victim: str, pause: float = 0.0
    ) -> None:
        super().__init__(settings)
        self.trouble, self.victim, self.pause = trouble, victim, pause

    def __call__(self, shard: dict[str, Any], attempt: Attempt = FIRST_ATTEMPT) -> ShardResult:
        time.sleep(self.pause)
        return super().__call__(shard, attempt)

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = tuple(self.model.tokenizer(self.victim)["input_ids"])
        if self.trouble is not None and any(tuple(row) == wanted for row in rows):
            self.trouble(self, rows)
        return super()._pad(rows)


@dataclass(frozen=True)
class Faulty:
    """Makes such workers."""

    trouble: "Trouble | None" = None
    victim: str = ""
    pause: float = 0.0

    def __call__(self, settings: ScoreWorkerSettings) -> ScoreWorker:
        return FaultyWorker(settings, self.trouble, self.victim, self.pause)


def die(_worker: FaultyWorker, _rows: Sequence[Sequence[int]]) -> None:
    """Be killed, as the kernel kills a process for whose memory there is no room."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Once:
    """Happens a first time and never again, whatever process asks."""

    marker: str
    trouble: Trouble

    def __call__(self, worker: FaultyWorker, rows: Sequence[Sequence[int]]) -> None:
        try:
            Path(self.marker).touch(exist_ok=False)
        except FileExistsError:
            return
        self.trouble(worker, rows)


def run_out_of_address_space(_worker: FaultyWorker, _rows: Sequence[Sequence[int]]) -> None:
    """Ask for a gigabyte where the process may have a hundred megabytes more than it has."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    earlier = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + 100 * 2**20, earlier[1]))
    try:
        torch.empty(2**30, dtype=torch.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, earlier)


def too_large_for_the_device(_worker: FaultyWorker, rows: Sequence[Sequence[int]]) -> None:
    """Raise what torch raises when a GPU is full, until the batch is down to two prompts."""
    if len(rows) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def break_the_device(_worker: FaultyWorker, _rows: Sequence[Sequence[int]]) -> None:
    """Raise what torch raises when a kernel has failed and every later one will."""
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")


def die_while_loading(_settings: ScoreWorkerSettings) -> ScoreWorker:
    """Be killed before the model is there."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fail_while_loading(_settings: ScoreWorkerSettings) -> ScoreWorker:
    """Raise before the model is loaded."""
    raise RuntimeError("the weights cannot be read")
