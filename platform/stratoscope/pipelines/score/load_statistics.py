"""The statistics of a run as input of the scores, read from its tables one row group at a time."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.pipelines.sharded.taps import taps_read
from stratoscope.results import Manifest, Run, Storage, iter_table, read_table
from stratoscope.scoring import (
    Observations,
    Scoring,
    ScoringSettings,
    SpanAngle,
    TapUnits,
    count_units,
    join_units,
    place_thresholds,
    score_groups,
)
from stratoscope.statistics import Statistics, merge, merge_all
from stratoscope.statistics.histogram import NUM_BINS
from stratoscope.tables import score as tables
from stratoscope.tables.activations import statistics_of_tap
from stratoscope.tables.score import ALL


@dataclass(frozen=True)
class StatisticsTables:
    """The tables with a run's statistics: one row per prompt or, in large runs, per shard of prompts."""

    storage: Storage
    by_shard: bool
    taps: tuple[str, ...]
    epsilons: tuple[float, ...]
    """Thresholds that were counted exactly."""

    @classmethod
    def from_run(cls, run: Run) -> "StatisticsTables":
        """Return the tables of a score run."""
        return cls.from_manifest(run.storage, run.manifest)

    @classmethod
    def from_manifest(cls, storage: Storage, manifest: Manifest) -> "StatisticsTables":
        """Return the tables of a score run.

        If the model lets none of its taps read, the first remains: its rows have the cosines, though no activations.
        """
        facts, taps = manifest.facts, manifest.config["activations"]["taps"]
        read = taps_read(taps, facts) or tuple(map(str, taps[:1]))
        return cls(storage, bool(facts.get("by_shard")), read, tuple(facts["epsilons"]))

    @property
    def stats(self) -> str:
        """Name of the table of statistics."""
        return "shard_stats" if self.by_shard else "prompt_stats"

    @property
    def spans(self) -> str:
        """Name of the table of angular distances."""
        return "shard_spans" if self.by_shard else "span_stats"

    def read(self, tap: str) -> Iterator[tuple[str, Statistics, list[str]]]:
        """Yield the statistics of a tap, one row group at a time.

        Yields:
            The group, statistics of shape (units, layers), and the groups of the units. The group is `ALL` or, for
            statistics by shard, also each of the groups. The groups of the units are empty for statistics by shard.
        """
        for table in iter_table(self.storage, self.stats):
            for group, rows in self._by_group(table):
                statistics, units = statistics_of_tap(rows, tap, self.epsilons)
                yield group, statistics, [] if self.by_shard else units["group"].to_pylist()

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


def load_observations(source: StatisticsTables, settings: ScoringSettings) -> dict[str, Observations]:
    """Return the observations of all prompts under the key `ALL`, followed by those of each group if there are several.

    Only a few numbers per unit, layer and tap stay in memory, because histograms are dropped after counting.

    Args:
        source: the tables of a run.
        settings: the thresholds that will be scored.
    """
    pooled = _pooled_histograms(source, settings)
    taps: dict[str, dict[str, TapUnits]] = defaultdict(dict)
    groups: list[str] = []
    for tap in source.taps:
        thresholds = place_thresholds(settings.epsilons, source.epsilons, pooled[tap])
        parts: dict[str, list[TapUnits]] = defaultdict(list)
        groups = []
        for group, statistics, unit_groups in source.read(tap):
            parts[group].append(count_units(statistics, thresholds))
            groups += unit_groups
        for group, units in parts.items():
            taps[group][tap] = join_units(units)
    angles = source.read_angles()
    order = [ALL, *sorted(set(taps) - {ALL})]
    observations = {group: Observations(taps[group], angles.get(group, {})) for group in order}
    return observations if source.by_shard else observations | observations[ALL].split(groups)


def score_tables(source: StatisticsTables, settings: ScoringSettings) -> list[tuple[str, Scoring]]:
    """Return every scoring of all prompts, then of each group if there are several, in order of names."""
    weight_norm = read_table(source.storage, "layers")["weight_norm"].to_numpy(zero_copy_only=False)
    return list(score_groups(load_observations(source, settings), weight_norm, settings))


def _pooled_histograms(source: StatisticsTables, settings: ScoringSettings) -> dict[str, NDArray[np.int64]]:
    """Return each tap's histogram over all prompts and layers, or zeros if there are no quantiles."""
    pooled = {tap: np.zeros(NUM_BINS, np.int64) for tap in source.taps}
    if any(kind == "quantile" for kind, _ in settings.epsilons):
        for tap in source.taps:
            for group, statistics, _ in source.read(tap):
                if group == ALL:
                    pooled[tap] += statistics.histogram.sum(axis=(0, 1))
    return pooled
