"""Tables of a shard from its batches."""

from dataclasses import replace

import numpy as np
import pytest

from stratoscope.activations import BatchStatistics, Tap
from stratoscope.pipelines.score.shard_tables import RetentionPolicy, ShardTables
from stratoscope.results import from_parquet
from stratoscope.statistics import Statistics, stack
from tests.pipelines.test_tables import random_statistics

TAPS = (Tap.BLOCK, Tap.MLP)
SPANS = ((0, 2), (1, 1))
BATCHES = ([5, 2, 0], [4, 1, 3])
GROUPS = ["red", "blue", "red", "red", "blue", "green"]


def batch(seed: int) -> BatchStatistics:
    return BatchStatistics(random_statistics(seed), np.random.default_rng(seed).uniform(-1, 1, (3, 2)))


def files(retention: RetentionPolicy, start: int, *, grouped_on_device: bool) -> dict[str, bytes]:
    shard = {"shard": 3, "start": start, "prompt_id": list("abcdef"), "group": GROUPS, "text": [""] * 6}
    tables = ShardTables(shard, retention, TAPS, SPANS)
    for seed, prompts in enumerate(BATCHES):
        measured, groups = batch(seed), tables.groups_of(prompts)
        if groups is not None and grouped_on_device:
            single = measured.statistics.histogram
            sums = [single[np.array(groups.of_segment) == number].sum(axis=0) for number in range(groups.number)]
            statistics = measured.statistics.without_histogram()
            measured = BatchStatistics(statistics, measured.span_cosine, np.stack(sums))
        tables.add(prompts, measured)
    return tables.files()


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("reservoir", [0, 2, 6])
def test_histograms_summed_by_the_probe_give_the_same_tables(grouped: bool, reservoir: int) -> None:
    retention = RetentionPolicy(by_shard=True, reservoir=reservoir, grouped=grouped)
    whole, summed = (files(retention, 0, grouped_on_device=on_device) for on_device in (False, True))
    assert whole == summed
    expected = [None, "blue", "green", "red"] if grouped else [None]
    assert list(dict.fromkeys(from_parquet(summed["shard_stats"])["group"].to_pylist())) == expected


def test_rows_of_single_prompts_stand_in_order_of_prompts() -> None:
    written = files(RetentionPolicy(by_shard=False, reservoir=0, grouped=False), 10, grouped_on_device=True)
    table = from_parquet(written["prompt_stats"])
    assert table["prompt_id"].to_pylist() == [name for name in "abcdef" for _ in range(4 * len(TAPS))]
    assert from_parquet(written["span_stats"])["prompt_id"].to_pylist() == [n for n in "abcdef" for _ in SPANS]
    together: Statistics = stack([batch(0).statistics, batch(1).statistics])
    order = np.argsort([*BATCHES[0], *BATCHES[1]])
    np.testing.assert_array_equal(table["count"].to_numpy(), together.count[order].ravel())
    assert table["group"].to_pylist()[:: 4 * len(TAPS)] == GROUPS


def test_a_shard_in_32_bits_is_written_as_in_64() -> None:
    tables = []
    for dtype in (np.int32, np.int64):
        shard = {"shard": 0, "start": 0, "prompt_id": list("abc"), "group": ["g"] * 3, "text": [""] * 3}
        table = ShardTables(shard, RetentionPolicy(by_shard=False, reservoir=0, grouped=False), TAPS, ())
        statistics = random_statistics(7)
        narrow = replace(statistics, histogram=statistics.histogram.astype(dtype))
        table.add([0, 1, 2], BatchStatistics(narrow, np.zeros((3, 0))))
        tables.append(table.files())
    assert tables[0] == tables[1]
