"""What an actor of the scoring job does with a shard of prompts."""

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stratoscope.activations import BatchStatistics, Probe, Tap, bucket
from stratoscope.models import Encoded, Encoding, ModelSource, encode, layer_parameters, load_model
from stratoscope.pipelines.score import tables
from stratoscope.results import ShardResult, from_rows, to_parquet
from stratoscope.statistics import stack


@dataclass(frozen=True)
class WorkerSettings:
    """All that a worker has to know; equal settings and an equal shard give an equal result, to the bit."""

    source: ModelSource
    device: str
    dtype: str
    attention: str | None
    trust_remote_code: bool
    encoding: Encoding
    taps: tuple[Tap, ...]
    epsilons: tuple[float, ...]
    spans: tuple[tuple[int, int], ...]
    batch_tokens: int
    num_threads: int


class ScoreWorker:
    """Reduces shards of prompts to statistics. The model is loaded once, when the worker is made."""

    def __init__(self, settings: WorkerSettings) -> None:
        torch.set_num_threads(settings.num_threads)
        self.settings = settings
        self.model = load_model(
            settings.source,
            settings.device,
            settings.dtype,
            attention=settings.attention,
            trust_remote_code=settings.trust_remote_code,
        )

    def __call__(self, shard: dict[str, Any]) -> ShardResult:
        """Run the prompts of a shard.

        Args:
            shard: `shard`, its number, and the lists `prompt_id`, `group` and `text`.
        """
        started = time.time()
        encoded = encode(self.model.tokenizer, shard["text"], self.settings.encoding)
        errors: dict[int, str] = {i: e.error for i, e in enumerate(encoded) if e.error is not None}
        readable = [i for i in range(len(encoded)) if i not in errors]
        batches = bucket([len(encoded[i].ids) for i in readable], self.settings.batch_tokens)
        measured: dict[int, BatchStatistics] = {}
        padded = 0
        with Probe(self.model, self.settings.taps, self.settings.epsilons, self.settings.spans) as probe:
            for batch in batches:
                chosen = [readable[position] for position in batch]
                padded += len(chosen) * max(len(encoded[i].ids) for i in chosen)
                self._measure(probe, encoded, chosen, measured, errors)
        files = self._files(shard, measured, errors)
        return ShardResult(
            shard=int(shard["shard"]),
            files=files,
            counts={
                "prompts": len(encoded),
                "scored": len(measured),
                "errors": len(errors),
                "truncated": sum(e.truncated for e in encoded),
                "tokens": sum(len(encoded[i].ids) for i in measured),
                "padded_tokens": padded,
                "nonfinite": int(sum(m.statistics.nonfinite.sum() for m in measured.values())),
                "process": os.getpid(),
                "started": started,
                "ended": time.time(),
                "peak_memory_bytes": peak_memory_bytes(),
            },
        )

    def _measure(
        self,
        probe: Probe,
        encoded: Sequence[Encoded],
        chosen: Sequence[int],
        measured: dict[int, BatchStatistics],
        errors: dict[int, str],
    ) -> None:
        """Measure a batch; if it fails, measure its prompts one by one, so that only the culprit is lost."""
        try:
            result = probe.measure(*self._pad([encoded[i].ids for i in chosen]))
        except RuntimeError as error:
            if len(chosen) == 1:
                errors[chosen[0]] = f"{type(error).__name__}: {error}".split("\n")[0]
                return
            for i in chosen:
                self._measure(probe, encoded, [i], measured, errors)
            return
        for row, i in enumerate(chosen):
            measured[i] = BatchStatistics(result.statistics[row : row + 1], result.span_cosine[row : row + 1])

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(row) for row in rows)
        filler = self.model.tokenizer.pad_token_id or 0
        ids = torch.full((len(rows), longest), filler, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids, mask

    def _files(
        self, shard: dict[str, Any], measured: dict[int, BatchStatistics], errors: dict[int, str]
    ) -> dict[str, bytes]:
        files = {}
        order = sorted(measured)
        ids = [shard["prompt_id"][i] for i in order]
        if order:
            statistics = stack([measured[i].statistics for i in order])
            groups = [shard["group"][i] for i in order]
            files["prompt_stats"] = to_parquet(tables.prompt_stats(statistics, ids, groups, self.settings.taps))
        if order and self.settings.spans:
            cosine = np.concatenate([measured[i].span_cosine for i in order])
            files["span_stats"] = to_parquet(tables.span_stats(cosine, ids, self.settings.spans))
        if errors:
            rows = [(shard["prompt_id"][i], error) for i, error in sorted(errors.items())]
            files["errors"] = to_parquet(from_rows(rows, tables.ERRORS))
        if shard["shard"] == 0:
            layers = enumerate(layer_parameters(self.model.anatomy))
            files["layers"] = to_parquet(from_rows([(i, n, norm) for i, (n, norm) in layers], tables.LAYERS))
        return files


def peak_memory_bytes() -> int:
    """Return the most memory this process has held: on the host, plus what torch held on a GPU."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return host + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
