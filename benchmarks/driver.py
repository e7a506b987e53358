"""Measure how many shards a second one driver can follow, with workers that compute nothing.

Workers return results of real size at once, so that the driver and Ray are the only limit. The first table compares
results that actors store themselves with results that the driver stores. Seconds are processor time, which shows what
saturates first on a machine whose cores are shared. The rate of the driver alone is what one core allows it.

usage: python benchmarks/driver.py [--shards N] [--prompts N] [--actors N] [--repeats N]
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from stratoscope.activations import Tap
from stratoscope.execution import ActorPool, Attempt, cluster, run_shards
from stratoscope.pipelines.sharded.layout import BATCHES_PER_SHARD, ShardLayout, Shards
from stratoscope.results import ShardResult, ShardStore, Storage, to_parquet
from stratoscope.statistics import Statistics
from stratoscope.statistics.histogram import NUM_BINS
from stratoscope.tables.score import shard_stats

TAPS = (Tap.BLOCK, Tap.UPDATE)
LAYERS_8B = 32
TOKENS_8B, BATCH_8B = 35_010, 8192
"""Tokens per second of the bare pass and tokens of a batch at 8B, measured on an H200 (docs/results/benchmarks.md)."""
PROMPT = "What is the name of the process by which plants make their food out of light, water and air? "
SERVERS = ("gcs_server", "raylet")


def make_result() -> bytes:
    """Return the statistics of a shard of an 8B model, merged, as a file."""
    rng, shape = np.random.default_rng(0), (1, LAYERS_8B, len(TAPS))
    whole = np.full(shape, 10**9, np.int64)
    merged = Statistics(
        epsilons=(0.01,),
        prompts=whole,
        tokens=whole,
        count=whole,
        mean=rng.standard_normal(shape),
        m2=rng.random(shape) * 1e9,
        pooled_variance=rng.random(shape),
        histogram=rng.integers(0, 10**6, (*shape, NUM_BINS)),
        below=rng.integers(0, 10**6, (*shape, 1)),
        cosine=rng.random(shape),
        cosine_tokens=whole,
        nonfinite=np.zeros(shape, np.int64),
    )
    return to_parquet(shard_stats(merged, 0, [None], TAPS))


class IdleWorker:
    """Returns the same result for every shard, at once."""

    def __init__(self) -> None:
        self._content = make_result()

    def __call__(self, shard: dict[str, Any], attempt: Attempt) -> ShardResult:
        """Return a result of real size."""
        counts = {"prompts": len(shard["text"]), "tokens": 0, "errors": 0, "attempts": attempt.number}
        return ShardResult(shard["shard"], {"shard_stats": self._content}, counts)


@dataclass(frozen=True)
class Figures:
    """What a run took per shard: wall time, processor time of the driver and of Ray's servers, and memory."""

    wall: float
    driver: float
    servers: float
    driver_bytes: float
    """Growth of the driver's memory during the run, per shard."""


def measure(units: pa.Table, layout: ShardLayout, num_actors: int, *, by_actors: bool) -> Figures:
    """Run shards through workers that compute nothing."""
    process = psutil.Process()
    pool = ActorPool(num_actors, num_actors, num_actors, 1, 0)
    with tempfile.TemporaryDirectory() as folder:
        store = ShardStore(Storage(folder))
        shards = Shards(layout, units, range(layout.num_shards))
        servers, memory, driver = _server_seconds(), process.memory_info().rss, _seconds(process)
        start = None
        for number, result in enumerate(
            run_shards(shards, IdleWorker, pool, "Idle", store=store if by_actors else None)
        ):
            if number == 0:  # actors have started
                start = time.perf_counter()
            if not result.stored:
                store.write(result)
        assert start is not None
        wall = (time.perf_counter() - start) / (layout.num_shards - 1)
        assert store.num_done() == layout.num_shards
        return Figures(
            wall,
            (_seconds(process) - driver) / layout.num_shards,
            (_server_seconds() - servers) / layout.num_shards,
            (process.memory_info().rss - memory) / layout.num_shards,
        )


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _server_seconds() -> float:
    """Return the processor time of Ray's own processes."""
    return sum(_seconds(p) for p in psutil.process_iter(["name"]) if p.info["name"] in SERVERS)


def show(title: str, figures: list[Figures]) -> None:
    """Print a row: medians, and how many GPUs that run an 8B model a driver can serve."""
    wall, driver, servers, held = (
        statistics.median(getattr(f, name) for f in figures) for name in ("wall", "driver", "servers", "driver_bytes")
    )
    seconds_per_gpu = BATCHES_PER_SHARD * BATCH_8B / TOKENS_8B
    print(
        f"| {title} | {1 / wall:.0f} | {driver * 1e3:.1f} ms | {servers * 1e3:.1f} ms | {held / 1e3:.0f} kB "
        f"| {seconds_per_gpu / wall:.0f} | {seconds_per_gpu / driver:.0f} |",
        flush=True,
    )


def main() -> None:
    """Compare the two ways of storing results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=400)
    parser.add_argument("--prompts", type=int, default=500, help="prompts of a shard")
    parser.add_argument("--actors", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    total = options.shards * options.prompts
    numbers = [str(i) for i in range(total)]
    units = pa.table({"prompt_id": numbers, "group": ["a"] * total, "text": [PROMPT + n for n in numbers]})
    layout = ShardLayout(total, options.prompts)
    figures: dict[bool, list[Figures]] = {True: [], False: []}
    with cluster():
        for turn in range(options.repeats):
            for by_actors in (True, False) if turn % 2 else (False, True):
                figures[by_actors].append(measure(units, layout, options.actors, by_actors=by_actors))
    print(f"{options.shards} shards of {options.prompts} prompts, {options.actors} actors, {os.cpu_count()} cores\n")
    print(
        "| results stored by | shards/s | driver, per shard | Ray's servers, per shard | driver's memory, per shard "
        "| GPUs at 8B, this machine | GPUs at 8B, by the driver's core alone |"
    )
    print("|---|---|---|---|---|---|---|")
    show("actors", figures[True])
    show("the driver", figures[False])


if __name__ == "__main__":
    main()
