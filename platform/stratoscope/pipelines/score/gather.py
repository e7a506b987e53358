"""From the statistics of a shard's batches to the tables of the shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stratoscope.activations import BatchStatistics, Tap
from stratoscope.pipelines.score import tables
from stratoscope.results import from_rows, to_parquet
from stratoscope.statistics import Statistics, merge, merge_all, stack


@dataclass(frozen=True)
class RetentionPolicy:
    """What is kept of a shard."""

    by_shard: bool
    """Statistics merged per shard and group, with the rows of the reservoir's prompts alone."""
    reservoir: int
    """Prompts at the beginning of the seeded order whose rows are kept in any case."""
    grouped: bool
    """There are several groups, which are merged apart as well."""


class ShardTables:
    """Gathers one shard. It holds rows of the prompts that are kept one by one, and one merged set per group.

    Args:
        shard: `shard`, its number, `start`, the place of its first prompt in the run, and the lists `prompt_id`,
            `group` and `text`.
        kept: what to keep.
        taps: in order of the statistics' last axis.
        spans: (start, length) of the spans that were measured.
    """

    def __init__(
        self, shard: dict[str, Any], kept: RetentionPolicy, taps: Sequence[Tap], spans: Sequence[tuple[int, int]]
    ) -> None:
        self._shard, self._kept, self._taps, self._spans = shard, kept, taps, spans
        self._rows: dict[int, pa.Table] = {}
        self._cosine: dict[int, NDArray[np.float64]] = {}
        self._merged: dict[str | None, Statistics] = {}
        self._angles: dict[str | None, NDArray[np.float64]] = {}
        self.errors: dict[int, str] = {}
        self.measured = 0
        self.nonfinite = 0

    def add(self, prompts: Sequence[int], batch: BatchStatistics) -> None:
        """Take in a batch.

        Args:
            prompts: places in the shard, in order of the batch's rows.
            batch: what was measured of them.
        """
        self.measured += len(prompts)
        self.nonfinite += int(batch.statistics.nonfinite.sum())
        self._keep_rows(prompts, batch)
        if self._kept.by_shard:
            self._merge(prompts, batch)

    def files(self) -> dict[str, bytes]:
        """Return the shard's tables as Parquet; those without rows are left out."""
        number, ids = int(self._shard["shard"]), self._shard["prompt_id"]
        files: dict[str, bytes] = {}
        order = sorted(self._rows)
        if order:
            files["prompt_stats"] = to_parquet(pa.concat_tables([self._rows[i] for i in order]).combine_chunks())
        if order and self._spans:
            cosine = np.stack([self._cosine[i] for i in order])
            files["span_stats"] = to_parquet(tables.span_stats(cosine, [ids[i] for i in order], self._spans))
        groups = sorted(self._merged, key=lambda name: name or "")
        if groups:
            merged = stack([self._merged[group][None] for group in groups])
            files["shard_stats"] = to_parquet(tables.shard_stats(merged, number, groups, self._taps))
        if groups and self._spans:
            sums = np.stack([self._angles[group] for group in groups], axis=1)
            files["shard_spans"] = to_parquet(tables.shard_spans(sums, number, groups, self._spans))
        if self.errors:
            rows = [(ids[i], error) for i, error in sorted(self.errors.items())]
            files["errors"] = to_parquet(from_rows(rows, tables.ERRORS))
        return files

    def _keep_rows(self, prompts: Sequence[int], batch: BatchStatistics) -> None:
        ids, groups, start = self._shard["prompt_id"], self._shard["group"], self._shard["start"]
        chosen = [row for row, i in enumerate(prompts) if not self._kept.by_shard or start + i < self._kept.reservoir]
        if not chosen:
            return
        places = [prompts[row] for row in chosen]
        rows = tables.prompt_stats(
            batch.statistics[chosen], [ids[i] for i in places], [groups[i] for i in places], self._taps
        )
        per_prompt = rows.num_rows // len(chosen)
        for position, (row, i) in enumerate(zip(chosen, places, strict=True)):
            self._rows[i] = rows.slice(position * per_prompt, per_prompt)
            self._cosine[i] = batch.span_cosine[row]

    def _merge(self, prompts: Sequence[int], batch: BatchStatistics) -> None:
        groups = np.asarray([self._shard["group"][i] for i in prompts], object)
        everyone = np.ones(len(prompts), bool)
        self._merge_group(None, everyone, batch)
        for group in sorted(set(groups)) if self._kept.grouped else []:
            self._merge_group(group, groups == group, batch)

    def _merge_group(self, group: str | None, members: NDArray[np.bool_], batch: BatchStatistics) -> None:
        part = merge_all(batch.statistics[members])
        self._merged[group] = merge(self._merged[group], part) if group in self._merged else part
        cosine = batch.span_cosine[members]
        known = ~np.isnan(cosine)
        values = (known, np.nan_to_num(cosine), np.where(known, tables.angle_of(np.nan_to_num(cosine)), 0.0))
        sums = np.stack([value.sum(axis=0) for value in values])
        self._angles[group] = self._angles[group] + sums if group in self._angles else sums
