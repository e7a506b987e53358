"""What an actor of the scoring job does with a shard of prompts."""

import os
import resource
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stratoscope.activations import BatchStatistics, Probe, Tap
from stratoscope.execution import FIRST_ATTEMPT, Attempt, BrokenProcessError, WorkMetrics
from stratoscope.models import Encoded, Encoding, Loading, bucket, encode, layer_parameters, pad
from stratoscope.pipelines.score import tables
from stratoscope.pipelines.score.gather import Kept, ShardTables
from stratoscope.results import ShardResult, from_rows, to_parquet

CRASHED = "the process died each time that this prompt was run, most likely for want of memory"


@dataclass(frozen=True)
class WorkerSettings:
    """All that a worker has to know; equal settings and an equal shard give an equal result, to the bit."""

    loading: Loading
    encoding: Encoding
    taps: tuple[Tap, ...]
    epsilons: tuple[float, ...]
    spans: tuple[tuple[int, int], ...]
    kept: Kept
    batch_tokens: int
    num_threads: int


@dataclass
class _Work:
    """A shard on its way."""

    encoded: list[Encoded]
    gathered: ShardTables
    attempt: Attempt
    padded: int = 0
    halved: int = 0


class ScoreWorker:
    """Reduces shards of prompts to statistics. The model is loaded once, when the worker is made.

    Two threads may call it at once: one runs the model while the other encodes its prompts or writes its tables.
    """

    def __init__(self, settings: WorkerSettings, metrics: WorkMetrics | None = None) -> None:
        torch.set_num_threads(settings.num_threads)
        self.settings, self._metrics = settings, metrics
        self._model_in_use = threading.Lock()
        self.model = settings.loading.load()

    def __call__(self, shard: dict[str, Any], attempt: Attempt = FIRST_ATTEMPT) -> ShardResult:
        """Run the prompts of a shard.

        Args:
            shard: `shard`, its number, `start`, the place of its first prompt in the run, and the lists `prompt_id`,
                `group` and `text`.
            attempt: what earlier attempts at the shard have shown.

        Raises:
            BrokenProcessError: the device is in a state that only a new process mends.
        """
        encoded = encode(self.model.tokenizer, shard["text"], self.settings.encoding)
        gathered = ShardTables(shard, self.settings.kept, self.settings.taps, self.settings.spans)
        gathered.errors = {i: e.error for i, e in enumerate(encoded) if e.error is not None}
        work = _Work(encoded, gathered, attempt)
        with self._model_in_use:
            started = time.time()
            self._run(work)
            ended = time.time()
        if self._metrics:
            self._metrics.errors(len(gathered.errors))
        files = gathered.files()
        if shard["shard"] == 0:
            files["layers"] = self._layers()
        return ShardResult(
            shard=int(shard["shard"]),
            files=files,
            counts={
                "prompts": len(encoded),
                "scored": gathered.measured,
                "errors": len(gathered.errors),
                "truncated": sum(e.truncated for e in encoded),
                "tokens": sum(len(e.ids) for i, e in enumerate(encoded) if i not in gathered.errors),
                "padded_tokens": work.padded,
                "nonfinite": gathered.nonfinite,
                "halved": work.halved,
                "attempts": attempt.number,
                "process": os.getpid(),
                "started": started,
                "ended": ended,
                "peak_memory_bytes": peak_memory_bytes(),
            },
        )

    def _run(self, work: _Work) -> None:
        torch.set_num_threads(self.settings.num_threads)  # it holds for the calling thread alone
        readable = [i for i in range(len(work.encoded)) if i not in work.gathered.errors]
        lengths = [len(work.encoded[i].ids) for i in readable]
        batches = [[readable[p] for p in batch] for batch in bucket(lengths, self.settings.batch_tokens)]
        runnable, given_up = work.attempt.divide(batches)
        work.gathered.errors |= dict.fromkeys(given_up, CRASHED)
        with Probe(self.model, self.settings.taps, self.settings.epsilons, self.settings.spans) as probe:
            for batch in runnable:
                self._measure(probe, work, batch)

    def _measure(self, probe: Probe, work: _Work, batch: Sequence[int]) -> None:
        """Measure a batch; if it fails, measure its halves, so that only the culprit is lost."""
        outcome = self._pass(probe, work, batch)
        if isinstance(outcome, BatchStatistics):
            work.gathered.add(batch, outcome)
        elif len(batch) == 1:
            work.gathered.errors[batch[0]] = outcome
        else:
            work.halved += 1
            middle = len(batch) // 2
            self._measure(probe, work, batch[:middle])
            self._measure(probe, work, batch[middle:])

    def _pass(self, probe: Probe, work: _Work, batch: Sequence[int]) -> BatchStatistics | str:
        """Run one batch and return its statistics, or what went wrong: by then the memory it took is free again."""
        rows = [work.encoded[i].ids for i in batch]
        work.attempt.note(batch)
        started = time.perf_counter()
        try:
            measured = probe.measure(*self._pad(rows))
        except torch.OutOfMemoryError as error:
            failure = _one_line(error)
        except torch.AcceleratorError as error:
            # Such an error stays with the device: every later call would fail for it.
            raise BrokenProcessError(_one_line(error)) from error
        except Exception as error:  # whatever a model's code raises, it is this batch's alone
            failure = _one_line(error)
        else:
            work.padded += len(rows) * max(len(row) for row in rows)
            if self._metrics:
                self._metrics.batch(len(rows), sum(map(len, rows)), time.perf_counter() - started)
            return measured
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return failure

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return pad(rows, self.model.tokenizer.pad_token_id or 0)

    def _layers(self) -> bytes:
        layers = enumerate(layer_parameters(self.model.anatomy))
        return to_parquet(from_rows([(i, n, norm) for i, (n, norm) in layers], tables.LAYERS))


def make_worker(settings: WorkerSettings) -> ScoreWorker:
    """Make the worker of an actor, which tells Prometheus what it does."""
    return ScoreWorker(settings, WorkMetrics("score", settings.loading.source.name))


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0]


def peak_memory_bytes() -> int:
    """Return the most memory this process has held: on the host, plus what torch held on its GPUs."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return host + sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
