"""The worker of the scoring job: statistics of a shard of prompts."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stratoscope.activations import Batching, Probe, Tap
from stratoscope.execution import FIRST_ATTEMPT, Attempt, WorkMetrics
from stratoscope.models import (
    Encoded,
    Encoding,
    LoadSpec,
    bucket,
    encode,
    layer_parameters,
    pad,
    padding_limit,
    peak_gpu_memory_bytes,
    peak_memory_bytes,
)
from stratoscope.pipelines.score.encoding import unpack_encoded
from stratoscope.pipelines.score.shard_tables import RetentionPolicy, ShardTables
from stratoscope.pipelines.sharded.batches import BatchOutcome, Finish, batches_ahead, run_batches
from stratoscope.pipelines.sharded.sizes import BATCH_TOKENS, BatchSizes, measured_tokens
from stratoscope.results import ShardResult, to_parquet
from stratoscope.tables.score import LayerRow


@dataclass(frozen=True)
class ScoreWorkerSettings:
    """Settings of a worker; equal settings and an equal shard give a bit-identical result."""

    loading: LoadSpec
    encoding: Encoding
    taps: tuple[Tap, ...]
    epsilons: tuple[float, ...]
    spans: tuple[tuple[int, int], ...]
    retention: RetentionPolicy
    sizes: BatchSizes
    num_threads: int


class ScoreWorker:
    """Reduces shards of prompts to statistics. The constructor loads the model.

    Several threads may call a worker concurrently: one runs the model while the others encode prompts or write tables.
    """

    def __init__(self, settings: ScoreWorkerSettings, metrics: WorkMetrics | None = None) -> None:
        torch.set_num_threads(settings.num_threads)
        self.settings, self._metrics = settings, metrics
        self._model_in_use = threading.Lock()
        self.model = settings.loading.load()
        self.batch_tokens = settings.sizes.max_tokens
        self.withdrawn: dict[str, str] = {}
        self.by_difference: list[int] = []

    def tune(self) -> dict[str, int]:
        """Return the values that all workers share: the tokens per batch, measured if the settings do not give them."""
        return {BATCH_TOKENS: self.batch_tokens or measured_tokens(self.model)}

    def adopt(self, tuning: Mapping[str, int]) -> None:
        """Use the values that all workers of the run share."""
        self.batch_tokens = tuning[BATCH_TOKENS]

    def __call__(self, shard: dict[str, Any], attempt: Attempt = FIRST_ATTEMPT) -> ShardResult:
        """Run the prompts of a shard.

        Args:
            shard: `shard`, its number, `start`, the index of its first prompt in the run, and the lists `prompt_id`,
                `group` and `text`; or, instead of `text`, the columns that `ShardEncoder` adds.
            attempt: the record of earlier attempts at the shard.

        Raises:
            BrokenProcessError: the device is in a state that only a new process recovers.
        """
        encoded = self._encoded(shard)
        shard_tables = ShardTables(shard, self.settings.retention, self.settings.taps, self.settings.spans)
        with self._model_in_use:
            start = time.time()
            outcome = self._run(encoded, shard_tables, attempt)
            end = time.time()
        shard_tables.errors = {i: e.error for i, e in enumerate(encoded) if e.error is not None} | outcome.errors
        if self._metrics:
            self._metrics.errors(len(shard_tables.errors))
        files = shard_tables.files()
        if shard["shard"] == 0:
            files["layers"] = self._layers()
        return ShardResult(
            shard=int(shard["shard"]),
            files=files,
            counts={
                "prompts": len(encoded),
                "scored": shard_tables.measured,
                "errors": len(shard_tables.errors),
                "truncated": sum(e.truncated for e in encoded),
                "tokens": sum(len(e.ids) for i, e in enumerate(encoded) if i not in shard_tables.errors),
                "padded_tokens": outcome.padded,
                "nonfinite": shard_tables.nonfinite,
                "halved": outcome.halved,
                "attempts": attempt.number,
                "process": os.getpid(),
                "started": start,
                "ended": end,
                "peak_memory_bytes": peak_memory_bytes(),
                "peak_gpu_memory_bytes": peak_gpu_memory_bytes(),
                "withdrawn": self.withdrawn,
                "by_difference": self.by_difference,
                BATCH_TOKENS: self.batch_tokens,
            },
        )

    def _encoded(self, shard: Mapping[str, Any]) -> list[Encoded]:
        if "ids" in shard:
            return unpack_encoded(shard)
        return encode(self.model.tokenizer, shard["text"], self.settings.encoding)

    def _run(self, encoded: Sequence[Encoded], shard_tables: ShardTables, attempt: Attempt) -> BatchOutcome:
        torch.set_num_threads(self.settings.num_threads)  # the setting is per thread
        readable = [i for i, e in enumerate(encoded) if e.error is None]
        lengths = [len(encoded[i].ids) for i in readable]
        with Probe(self.model, self.settings.taps, self.settings.epsilons, self.settings.spans) as probe:
            self.withdrawn = {str(tap): reason for tap, reason in probe.withdrawn.items()}
            self.by_difference = list(probe.layers_read_by_difference)
            # If padding changes the model's results, the probe would split padded batches, so there is no padding.
            max_padding = padding_limit(self.model.device) if probe.batching == Batching.ANY else 0.0
            assert self.batch_tokens is not None, "the worker was not tuned"
            classes = self.model.scaling.classes(lengths)
            groups = bucket(lengths, self.batch_tokens, max_padding, self.settings.sizes.max_prompts, classes)
            batches = [[readable[p] for p in group] for group in groups]

            def measure(batch: Sequence[int]) -> Finish:
                rows = [encoded[i].ids for i in batch]
                statistics = probe.start(*self._pad(rows), groups=shard_tables.groups_of(batch))

                def finish() -> tuple[int, int]:
                    shard_tables.add(batch, statistics())
                    return sum(map(len, rows)), len(rows) * max(map(len, rows))

                return finish

            return run_batches(batches, measure, attempt, self._metrics, ahead=batches_ahead(self.model.device))

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return pad(rows, self.model.tokenizer.pad_token_id or 0)

    def _layers(self) -> bytes:
        layers = enumerate(layer_parameters(self.model.anatomy))
        rows = [LayerRow(layer=i, num_parameters=number, weight_norm=norm) for i, (number, norm) in layers]
        return to_parquet(LayerRow.table(rows))


def make_worker(settings: ScoreWorkerSettings) -> ScoreWorker:
    """Return the worker of an actor, which reports metrics to Prometheus."""
    return ScoreWorker(settings, WorkMetrics("score", settings.loading.source.name))
