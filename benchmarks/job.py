"""Measure the scoring job on Ray: against a bare loop, by the number of actors, and against keeping hidden states.

All figures are medians of paired ratios from one run on one machine, on SmolLM2-135M and SciQ questions. The bare loop
is a good one: inference mode, prompts encoded beforehand, the same bucketed batches, no vocabulary head, no statistics,
on as many threads as all actors have together. The job's rate is that of its steady state: from when all actors are at
work until the first has nothing left to do.

usage: python benchmarks/job.py [--repeats N] [--prompts N] [--shard_size N]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil
import torch

from stratoscope.activations import run_backbone
from stratoscope.execution import ActorPool, cluster, run_shards
from stratoscope.models import LoadedModel, bucket, encode, load_model, usual_tokens
from stratoscope.pipelines.score import ScoreConfig, ScoreJob
from stratoscope.pipelines.score.run import worker_settings
from stratoscope.pipelines.score.worker import ScoreWorker, make_worker
from stratoscope.pipelines.sharded.layout import Shards

Batch = tuple[torch.Tensor, torch.Tensor]


def prepared(num_prompts: int, shard_size: int) -> ScoreJob:
    """Return the default job on so many prompts, ready to run."""
    fields = {"prompts": {"limit": num_prompts}, "batching": {"shard_size": shard_size}}
    job = ScoreJob(ScoreConfig.model_validate(fields))
    job.prepare()
    return job


def batches_of(job: ScoreJob, model: LoadedModel) -> Iterator[Batch]:
    """Yield the padded batches of all shards."""
    for table in Shards(job.inputs.layout, job.inputs.prompts.table, range(job.inputs.layout.num_shards)):
        (shard,) = table.to_pylist()
        rows = [e.ids for e in encode(model.tokenizer, shard["text"], job.config.prompts.to_encoding(1024))]
        for chosen in bucket([len(row) for row in rows], usual_tokens(0, on_gpu=False)):
            ids = torch.zeros(len(chosen), max(len(rows[i]) for i in chosen), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for place, i in enumerate(chosen):
                ids[place, : len(rows[i])] = torch.tensor(rows[i])
                mask[place, : len(rows[i])] = 1
            yield ids, mask


@torch.inference_mode()
def bare_rate(model: LoadedModel, batches: Sequence[Batch]) -> float:
    """Return the tokens per second of a bare loop."""
    start = time.perf_counter()
    for batch in batches:
        run_backbone(model, *batch)
    return sum(int(mask.sum()) for _, mask in batches) / (time.perf_counter() - start)


def job_rate(job: ScoreJob, pool: ActorPool) -> float:
    """Return the tokens per second of the job's actors in their steady state."""
    shards = Shards(job.inputs.layout, job.inputs.prompts.table, range(job.inputs.layout.num_shards))
    make = partial(make_worker, worker_settings(job.config, job.inputs, pool))
    counts = [result.counts for result in run_shards(shards, make, pool, "ScoreActor")]
    processes = {c["process"] for c in counts}
    start = max(min(c["started"] for c in counts if c["process"] == p) for p in processes)
    end = min(max(c["ended"] for c in counts if c["process"] == p) for p in processes)
    inside = [(c, max(0.0, min(c["ended"], end) - max(c["started"], start))) for c in counts]
    return sum(c["tokens"] * seconds / (c["ended"] - c["started"]) for c, seconds in inside) / (end - start)


def pairs(first: Callable[[], float], second: Callable[[], float], repeats: int) -> list[float]:
    """Return ratios of pairs in alternating order, since the machine's speed drifts."""
    ratios = []
    for turn in range(repeats):
        if turn % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        ratios.append(a / b)
    return ratios


def show(name: str, values: Sequence[float], target: str) -> None:
    """Print a median with its range and the target."""
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"{name}: {middle:.3f} (from {low:.3f} to {high:.3f}, {len(values)} pairs; target {target})", flush=True)


def against_the_bare_loop(job: ScoreJob, repeats: int) -> None:
    """Compare rates at equal threads, and two actors with one."""
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    model = load_model("smollm2")
    batches = list(batches_of(job, model))
    bare_rate(model, batches[:4])
    bare = partial(bare_rate, model, batches)
    pools = {n: ActorPool(n, n, n, 1, 0) for n in (1, 2)} | {0: ActorPool(1, 1, 1, threads, 0)}
    with cluster():
        rates = {n: partial(job_rate, job, pool) for n, pool in pools.items()}
        show("job with two actors of one thread / bare loop", pairs(rates[2], bare, repeats), "at least 0.95")
        show(f"job with one actor of {threads} threads / bare loop", pairs(rates[0], bare, repeats), "at least 0.95")
        show("two actors of one thread / one actor of one thread", pairs(rates[2], rates[1], repeats), "at least 1.7")


def keep_hidden_states(job: ScoreJob) -> None:
    """Do what users would otherwise do: keep all hidden states, then take variance and sparsity of each layer."""
    torch.set_num_threads(os.cpu_count() or 1)
    model = load_model("smollm2")
    batches = list(batches_of(job, model))
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    kept: list[list[torch.Tensor]] = [[] for _ in range(len(model.anatomy) + 1)]
    with torch.inference_mode():
        for ids, mask in batches:
            states = model.backbone(ids, attention_mask=mask, use_cache=False, output_hidden_states=True).hidden_states
            for layer, state in enumerate(states):
                kept[layer].append(state[mask.bool()])
        for layer in range(len(model.anatomy)):
            block = torch.cat(kept[layer + 1])
            update = block - torch.cat(kept[layer])
            for x in (block, update):
                x.double().var(), (x.abs() < 0.01).double().mean()
    tokens = sum(int(mask.sum()) for _, mask in batches)
    print(tokens / (time.perf_counter() - start), peak() - before)


def plain_worker(job: ScoreJob) -> None:
    """Do the same with the job's worker in this process."""
    threads = os.cpu_count() or 1
    worker = ScoreWorker(worker_settings(job.config, job.inputs, ActorPool(1, 1, 1, threads, 0)))
    shards = [
        t.to_pylist()[0]
        for t in Shards(job.inputs.layout, job.inputs.prompts.table, range(job.inputs.layout.num_shards))
    ]
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    tokens = sum(worker(shard).counts["tokens"] for shard in shards)
    print(tokens / (time.perf_counter() - start), peak() - before)


def peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def against_hidden_states(num_prompts: int, repeats: int) -> None:
    """Compare speed and memory with keeping all hidden states, each in a process of its own."""
    rates, memory = [], {"worker": 0.0, "hidden": 0.0}
    for _ in range(repeats):
        found = {}
        for kind, most in memory.items():
            command = [sys.executable, __file__, "--prompts", str(num_prompts), "--only", kind]
            rate, held = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
            found[kind] = float(rate)
            memory[kind] = max(most, float(held) / 1e6)
        rates.append(found["worker"] / found["hidden"])
    show(f"tokens/s of the worker / keeping hidden states, {num_prompts} prompts", rates, "none")
    print(
        f"memory beyond the model for {num_prompts} prompts: worker {memory['worker']:,.0f} MB, "
        f"keeping hidden states {memory['hidden']:,.0f} MB"
    )


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=192)
    parser.add_argument("--shard_size", type=int, default=32)
    parser.add_argument("--only", choices=["worker", "hidden"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    job = prepared(options.prompts, options.shard_size)
    if options.only:
        {"worker": plain_worker, "hidden": keep_hidden_states}[options.only](job)
        return
    against_the_bare_loop(job, options.repeats)
    against_hidden_states(2 * options.prompts, options.repeats)


if __name__ == "__main__":
    main()
