"""What an actor of the scoring job does with a shard of prompts."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stratoscope.activations import Probe, Tap
from stratoscope.execution import FIRST_ATTEMPT, Attempt, WorkMetrics
from stratoscope.models import Encoded, Encoding, LoadSpec, bucket, encode, layer_parameters, pad, peak_memory_bytes
from stratoscope.pipelines.score import tables
from stratoscope.pipelines.score.gather import RetentionPolicy, ShardTables
from stratoscope.pipelines.sharded.batches import BatchOutcome, run_batches
from stratoscope.results import ShardResult, from_rows, to_parquet


@dataclass(frozen=True)
class ScoreWorkerSettings:
    """All that a worker has to know; equal settings and an equal shard give an equal result, to the bit."""

    loading: LoadSpec
    encoding: Encoding
    taps: tuple[Tap, ...]
    epsilons: tuple[float, ...]
    spans: tuple[tuple[int, int], ...]
    kept: RetentionPolicy
    batch_tokens: int
    num_threads: int


class ScoreWorker:
    """Reduces shards of prompts to statistics. The model is loaded once, when the worker is made.

    Two threads may call it at once: one runs the model while the other encodes its prompts or writes its tables.
    """

    def __init__(self, settings: ScoreWorkerSettings, metrics: WorkMetrics | None = None) -> None:
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
        with self._model_in_use:
            started = time.time()
            ran = self._run(encoded, gathered, attempt)
            ended = time.time()
        gathered.errors = {i: e.error for i, e in enumerate(encoded) if e.error is not None} | ran.errors
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
                "padded_tokens": ran.padded,
                "nonfinite": gathered.nonfinite,
                "halved": ran.halved,
                "attempts": attempt.number,
                "process": os.getpid(),
                "started": started,
                "ended": ended,
                "peak_memory_bytes": peak_memory_bytes(),
            },
        )

    def _run(self, encoded: Sequence[Encoded], gathered: ShardTables, attempt: Attempt) -> BatchOutcome:
        torch.set_num_threads(self.settings.num_threads)  # it holds for the calling thread alone
        readable = [i for i, e in enumerate(encoded) if e.error is None]
        lengths = [len(encoded[i].ids) for i in readable]
        batches = [[readable[p] for p in batch] for batch in bucket(lengths, self.settings.batch_tokens)]
        with Probe(self.model, self.settings.taps, self.settings.epsilons, self.settings.spans) as probe:

            def measure(batch: Sequence[int]) -> tuple[int, int]:
                rows = [encoded[i].ids for i in batch]
                gathered.add(batch, probe.measure(*self._pad(rows)))
                return sum(map(len, rows)), len(rows) * max(map(len, rows))

            return run_batches(batches, measure, attempt, self._metrics)

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return pad(rows, self.model.tokenizer.pad_token_id or 0)

    def _layers(self) -> bytes:
        layers = enumerate(layer_parameters(self.model.anatomy))
        return to_parquet(from_rows([(i, n, norm) for i, (n, norm) in layers], tables.LAYERS))


def make_worker(settings: ScoreWorkerSettings) -> ScoreWorker:
    """Make the worker of an actor, which tells Prometheus what it does."""
    return ScoreWorker(settings, WorkMetrics("score", settings.loading.source.name))
