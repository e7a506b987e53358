"""The tables of one shard, from the statistics of its batches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stratoscope.activations import BatchStatistics, SegmentGroups, Tap
from stratoscope.results import to_parquet
from stratoscope.scoring import cosine_to_angle
from stratoscope.statistics import Statistics, merge, merge_all, stack
from stratoscope.tables import score as tables


@dataclass(frozen=True)
class RetentionPolicy:
    """The statistics that are stored for a shard."""

    by_shard: bool
    """Whether statistics are merged per shard and group. Then only prompts of the reservoir have their own rows."""
    reservoir: int
    """Number of prompts at the beginning of the seeded order that always have their own rows."""
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
        self._groups = sorted(set(shard["group"])) if retention.grouped else []
        self._single: list[tuple[Sequence[int], BatchStatistics]] = []
        self._merged: dict[str | None, Statistics] = {}
        self._angles: dict[str | None, NDArray[np.float64]] = {}
        self.errors: dict[int, str] = {}
        self.measured = 0
        self.nonfinite = 0

    def groups_of(self, prompts: Sequence[int]) -> SegmentGroups | None:
        """Return the groups by which a batch's histograms can be summed; None if any prompt has its own rows."""
        if not self._retention.by_shard or self._with_rows(prompts):
            return None
        numbers = {group: number for number, group in enumerate(self._groups)}
        of_prompt = (numbers.get(self._shard["group"][i], 0) for i in prompts)
        return SegmentGroups(tuple(of_prompt), max(1, len(self._groups)))

    def add(self, prompts: Sequence[int], batch: BatchStatistics) -> None:
        """Add a batch. Slow operations are left to `files`, because the model waits for this method.

        Args:
            prompts: indices in the shard, in order of the batch's rows.
            batch: statistics of these prompts, with histograms by the groups of `groups_of`, if there are any.
        """
        self.measured += len(prompts)
        self.nonfinite += int(batch.statistics.nonfinite.sum())
        if self._with_rows(prompts):
            self._single.append((prompts, batch))
        if self._retention.by_shard:
            self._merge(prompts, batch)

    def files(self) -> dict[str, bytes]:
        """Return the shard's tables as Parquet, except those without rows."""
        number, ids = int(self._shard["shard"]), self._shard["prompt_id"]
        files = self._files_of_prompts()
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

    def _with_rows(self, prompts: Sequence[int]) -> list[int]:
        """Return the positions in a batch of the prompts that have their own rows."""
        if not self._retention.by_shard:
            return list(range(len(prompts)))
        start = self._shard["start"]
        return [place for place, i in enumerate(prompts) if start + i < self._retention.reservoir]

    def _files_of_prompts(self) -> dict[str, bytes]:
        """Return the tables with rows of single prompts, in order of prompts."""
        if not self._single:
            return {}
        parts, cosines, order = [], [], []
        while self._single:
            prompts, batch = self._single.pop(0)
            places = self._with_rows(prompts)
            chosen = [prompts[place] for place in places]
            ids, groups = ([self._shard[name][i] for i in chosen] for name in ("prompt_id", "group"))
            parts.append(tables.prompt_stats(batch.statistics[places], ids, groups, self._taps))
            cosines.append(batch.span_cosine[places])
            order += chosen
        sequence = np.argsort(order)
        table = pa.concat_tables(parts)
        per_prompt = np.arange(table.num_rows // len(order))
        rows = (sequence[:, None] * len(per_prompt) + per_prompt).ravel()
        files = {"prompt_stats": to_parquet(table.take(rows).combine_chunks())}
        if self._spans:
            ids = [self._shard["prompt_id"][i] for i in sorted(order)]
            files["span_stats"] = to_parquet(tables.span_stats(np.concatenate(cosines)[sequence], ids, self._spans))
        return files

    def _merge(self, prompts: Sequence[int], batch: BatchStatistics) -> None:
        groups = np.asarray([self._shard["group"][i] for i in prompts], object)
        histograms = batch.group_histograms
        everyone = None if histograms is None else histograms.sum(axis=0)
        self._merge_group(None, np.ones(len(prompts), bool), batch, everyone)
        for number, group in enumerate(self._groups):
            members = groups == group
            if members.any():
                self._merge_group(group, members, batch, None if histograms is None else histograms[number])

    def _merge_group(
        self,
        group: str | None,
        members: NDArray[np.bool_],
        batch: BatchStatistics,
        histogram: NDArray[np.int64] | None,
    ) -> None:
        part = merge_all(batch.statistics[members])
        if histogram is not None:
            part = replace(part, histogram=histogram)
        self._merged[group] = merge(self._merged[group], part) if group in self._merged else part
        cosine = batch.span_cosine[members]
        measured = ~np.isnan(cosine)
        values = (measured, np.nan_to_num(cosine), np.where(measured, cosine_to_angle(np.nan_to_num(cosine)), 0.0))
        sums = np.stack([value.sum(axis=0) for value in values])
        self._angles[group] = self._angles[group] + sums if group in self._angles else sums
