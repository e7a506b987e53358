"""The statistics of a run as scores need them, read from its tables a row group at a time."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.pipelines.score import tables
from stratoscope.pipelines.score.tables import ALL
from stratoscope.pipelines.sharded.rows import statistics_of_tap
from stratoscope.results import Storage, iter_table, read_table
from stratoscope.scoring import (
    Observations,
    ScoringSettings,
    SpanAngle,
    TapUnits,
    count_units,
    join_units,
    place_thresholds,
)
from stratoscope.statistics import Statistics, merge, merge_all
from stratoscope.statistics.histogram import NUM_BINS


@dataclass(frozen=True)
class StatisticsTables:
    """Where a run keeps its statistics: a row per prompt or, of large runs, per shard of prompts."""

    storage: Storage
    by_shard: bool
    taps: tuple[str, ...]
    epsilons: tuple[float, ...]
    """Thresholds that were counted exactly."""

    @property
    def stats(self) -> str:
        """Name of the table that scores are computed from."""
        return "shard_stats" if self.by_shard else "prompt_stats"

    @property
    def spans(self) -> str:
        """Name of the table of angular distances."""
        return "shard_spans" if self.by_shard else "span_stats"

    def read(self, tap: str) -> Iterator[tuple[str, Statistics, list[str]]]:
        """Yield group, statistics of shape (units, layers) and the units' own groups, a row group at a time.

        The group is `ALL`, and of shards each of the groups too.
        """
        for table in iter_table(self.storage, self.stats):
            for group, rows in self._by_group(table):
                statistics, first = statistics_of_tap(rows, tap, self.epsilons)
                yield group, statistics, [] if self.by_shard else first["group"].to_pylist()

    def read_angles(self) -> dict[str, dict[tuple[int, int], SpanAngle]]:
        """Return the angular distances by group and span; empty where none were measured."""
        if not self.storage.exists(f"{self.spans}.parquet"):
            return {}
        table = read_table(self.storage, self.spans)
        return {group: tables.angles_by_span(rows) for group, rows in self._by_group(table)}

    def merged(self) -> dict[str, Statistics]:
        """Return each tap's statistics over all prompts, by layer."""
        merged: dict[str, Statistics] = {}
        for tap in self.taps:
            for group, statistics, _ in self.read(tap):
                if group == ALL:
                    part = merge_all(statistics)
                    merged[tap] = merge(merged[tap], part) if tap in merged else part
        return merged

    def _by_group(self, table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        if not self.by_shard:
            yield ALL, table
            return
        for name in pc.unique(table["group"]).to_pylist():
            same = pc.is_null(table["group"]) if name is None else pc.equal(table["group"], name)
            yield ALL if name is None else name, table.filter(same)


def load_observations(source: StatisticsTables, choices: ScoringSettings) -> dict[str, Observations]:
    """Return what was seen of all prompts, under `ALL`, and of each group where there are several.

    What is held are a few numbers per unit, layer and tap; histograms are let go as soon as they are counted.

    Args:
        source: the tables of a run.
        choices: the thresholds that will be scored.
    """
    pooled = _pooled_histograms(source, choices)
    taps: dict[str, dict[str, TapUnits]] = defaultdict(dict)
    groups: list[str] = []
    for tap in source.taps:
        thresholds = place_thresholds(choices.epsilons, source.epsilons, pooled[tap])
        parts: dict[str, list[TapUnits]] = defaultdict(list)
        groups = []
        for group, statistics, of_units in source.read(tap):
            parts[group].append(count_units(statistics, thresholds))
            groups += of_units
        for group, units in parts.items():
            taps[group][tap] = join_units(units)
    angles = source.read_angles()
    seen = {group: Observations(by_tap, angles.get(group, {})) for group, by_tap in taps.items()}
    return seen if source.by_shard else seen | dict(_split(seen[ALL], groups))


def _split(everything: Observations, groups: Sequence[str]) -> Iterator[tuple[str, Observations]]:
    names = sorted(set(groups))
    for name in names if len(names) > 1 else []:
        yield name, everything[np.flatnonzero(np.asarray(groups) == name)]


def _pooled_histograms(source: StatisticsTables, choices: ScoringSettings) -> dict[str, NDArray[np.int64]]:
    """Return each tap's histogram over all prompts and layers, or zeros where no quantile asks for it."""
    pooled = {tap: np.zeros(NUM_BINS, np.int64) for tap in source.taps}
    if any(kind == "quantile" for kind, _ in choices.epsilons):
        for tap in source.taps:
            for group, statistics, _ in source.read(tap):
                if group == ALL:
                    pooled[tap] += statistics.histogram.sum(axis=(0, 1))
    return pooled
