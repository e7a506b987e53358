"""The tables of one shard, from the statistics of its batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stratoscope.activations import BatchStatistics, Tap
from stratoscope.results import to_parquet
from stratoscope.scoring import cosine_to_angle
from stratoscope.statistics import Statistics, merge, merge_all, stack
from stratoscope.tables import score as tables


@dataclass(frozen=True)
class RetentionPolicy:
    """Statistics that are stored of a shard."""

    by_shard: bool
    """Whether statistics are merged per shard and group, with rows for the prompts of the reservoir alone."""
    reservoir: int
    """Number of prompts at the beginning of the seeded order that always have rows of their own."""
    grouped: bool
    """Whether there are several groups, which are also merged separately."""


class ShardTables:
    """Builds the tables of one shard: rows of single prompts, and merged statistics of each group.

    Args:
        shard: `shard`, its number, `start`, the index of its first prompt in the run, and the lists `prompt_id`,
            `group` and `text`.
        retention: the statistics to store.
        taps: taps in order of the statistics' last axis.
        spans: (start, length) of the measured spans.
    """

    def __init__(
        self, shard: dict[str, Any], retention: RetentionPolicy, taps: Sequence[Tap], spans: Sequence[tuple[int, int]]
    ) -> None:
        self._shard, self._retention, self._taps, self._spans = shard, retention, taps, spans
        self._rows: dict[int, pa.Table] = {}
        self._cosine: dict[int, NDArray[np.float64]] = {}
        self._merged: dict[str | None, Statistics] = {}
        self._angles: dict[str | None, NDArray[np.float64]] = {}
        self.errors: dict[int, str] = {}
        self.measured = 0
        self.nonfinite = 0

    def add(self, prompts: Sequence[int], batch: BatchStatistics) -> None:
        """Add a batch.

        Args:
            prompts: indices in the shard, in order of the batch's rows.
            batch: statistics of these prompts.
        """
        self.measured += len(prompts)
        self.nonfinite += int(batch.statistics.nonfinite.sum())
        self._add_rows(prompts, batch)
        if self._retention.by_shard:
            self._merge(prompts, batch)

    def files(self) -> dict[str, bytes]:
        """Return the shard's tables as Parquet, except those without rows."""
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
            rows = [tables.ScoreErrorRow(prompt_id=ids[i], error=error) for i, error in sorted(self.errors.items())]
            files["errors"] = to_parquet(tables.ScoreErrorRow.table(rows))
        return files

    def _add_rows(self, prompts: Sequence[int], batch: BatchStatistics) -> None:
        ids, groups, start = self._shard["prompt_id"], self._shard["group"], self._shard["start"]
        selected = [
            (row, i)
            for row, i in enumerate(prompts)
            if not self._retention.by_shard or start + i < self._retention.reservoir
        ]
        if not selected:
            return
        statistics = batch.statistics[[row for row, _ in selected]]
        table = tables.prompt_stats(
            statistics, [ids[i] for _, i in selected], [groups[i] for _, i in selected], self._taps
        )
        per_prompt = table.num_rows // len(selected)
        for position, (row, i) in enumerate(selected):
            self._rows[i] = table.slice(position * per_prompt, per_prompt)
            self._cosine[i] = batch.span_cosine[row]

    def _merge(self, prompts: Sequence[int], batch: BatchStatistics) -> None:
        groups = np.asarray([self._shard["group"][i] for i in prompts], object)
        everyone = np.ones(len(prompts), bool)
        self._merge_group(None, everyone, batch)
        for group in sorted(set(groups)) if self._retention.grouped else []:
            self._merge_group(group, groups == group, batch)

    def _merge_group(self, group: str | None, members: NDArray[np.bool_], batch: BatchStatistics) -> None:
        part = merge_all(batch.statistics[members])
        self._merged[group] = merge(self._merged[group], part) if group in self._merged else part
        cosine = batch.span_cosine[members]
        measured = ~np.isnan(cosine)
        values = (measured, np.nan_to_num(cosine), np.where(measured, cosine_to_angle(np.nan_to_num(cosine)), 0.0))
        sums = np.stack([value.sum(axis=0) for value in values])
        self._angles[group] = self._angles[group] + sums if group in self._angles else sums
