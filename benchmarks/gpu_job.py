"""Measure the scoring job on Ray on one GPU, against a bare loop over the same batches.

A case is a model of a shape in benchmarks/gpu.py, with random weights and prompts that fill each row, or SmolLM2 on
SciQ questions, in batches whose size is measured. Questions are repeated under different numbers, so that there are
enough for a steady state. The job's rate is that from the end of its first shard to the end of its last. The bare loop
runs in inference mode over prompts that were encoded and padded beforehand, without a vocabulary head, without hooks,
and without waiting between batches.

usage: python benchmarks/gpu_job.py [--case 8b|1b|135m|sciq] [--batches N] [--questions N] [--keep KIND]
"""

import argparse
import datetime
import gc
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from gpu import SHAPES, card, make_model, synchronize

from stratoscope.activations import run_backbone
from stratoscope.data import PromptSource, load_prompts
from stratoscope.execution import cluster, resources, run_shards
from stratoscope.models import (
    LoadedModel,
    bucket,
    load_model,
    load_tokenizer,
    pad,
    padding_limit,
    resolve_source,
    to_device,
)
from stratoscope.pipelines.score import ScoreConfig, ScoreJob
from stratoscope.pipelines.score.encoding import ShardEncoder, unpack_encoded
from stratoscope.pipelines.score.inputs import lay_out_inputs
from stratoscope.pipelines.score.run import shard_encoder, sharded_work, worker_settings
from stratoscope.pipelines.score.worker import ScoreWorkerSettings, make_worker
from stratoscope.pipelines.sharded.layout import Shards
from stratoscope.pipelines.sharded.measure import plan_actors
from stratoscope.results import ShardStore, Storage

Batch = tuple[torch.Tensor, torch.Tensor]
SCIQ = "sciq"
NUM_QUESTIONS = 160_000
BARE_TOKENS = 1_000_000
"""Tokens of the bare loop: they take some seconds, or some batches of a large model."""
WARM_UP = 3


@dataclass(frozen=True)
class Case:
    """A model and its prompts."""

    fields: dict[str, Any]
    """The configuration of the job."""
    target: float | None
    """Smallest ratio of the job's rate to that of the bare loop that meets the target."""


@dataclass(frozen=True)
class JobFigures:
    """What was measured of a run of the job."""

    rate: float
    """Tokens per second in steady state."""
    prepared: float
    """Seconds from the start of this process to prepared input; imports included."""
    connected: float
    """Seconds after that until Ray has started."""
    flowing: float
    """Seconds after that until the first batch starts: processes, imports, CUDA, the model, the size of batches."""
    batch_tokens: int
    settings: ScoreWorkerSettings
    shards: Shards
    encoder: ShardEncoder


def shape_case(name: str, batches: int, target: float | None, folder: Path, device: torch.device) -> Case:
    """Write a model with random weights, SmolLM2's tokenizer, and prompts that are longer than a row."""
    shape = SHAPES[name]
    rows, columns = shape.batch
    make_model(shape.config, device).network.save_pretrained(folder / "model")  # a GPU draws the weights in seconds
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the job needs the memory
    load_tokenizer(resolve_source("smollm2")).save_pretrained(folder / "model")
    generator = random.Random(0)
    lines = [" ".join(str(generator.randrange(1000)) for _ in range(columns)) for _ in range(rows * batches)]
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    fields = {
        "model": {"source": str(folder / "model"), "dtype": "bfloat16"},
        "prompts": {"source": str(folder / "prompts.txt"), "limit": None, "max_tokens": columns},
        "batching": {"max_tokens": rows * columns},
    }
    return Case(fields, target)


def sciq_case(num_questions: int, keep: str, folder: Path) -> Case:
    """Write numbered SciQ questions, repeated under new numbers until there are enough."""
    questions = load_prompts(PromptSource(SCIQ), None, 0).table["text"].to_pylist()
    numbered = (f"{number}. {question}" for number in itertools.count(1) for question in questions)
    lines = [" ".join(line.split()) for line in itertools.islice(numbered, num_questions)]
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    fields = {
        "model": {"source": "smollm2"},
        "prompts": {"source": str(folder / "prompts.txt"), "limit": None},
        "statistics": {"keep": keep, "max_rows": 10**9},
    }
    return Case(fields, 0.5)


def run_job(case: Case, folder: Path, *, gpus: float) -> JobFigures:
    """Run the job's measurement with one actor, which stores its results."""
    config = ScoreConfig.model_validate(case.fields | {"actors": {"max": 1, "gpus": gpus}})
    job = ScoreJob(config)
    job.prepare()
    prepared = time.time()
    store = ShardStore(Storage(str(folder / "run")))
    with cluster():
        connected = time.time()
        inputs = lay_out_inputs(config, job.inputs, resources())
        pool = plan_actors(config.actors, store, inputs.layout)
        settings = worker_settings(config, inputs, pool)
        shards = Shards(inputs.layout, inputs.prompts.table, range(inputs.layout.num_shards))
        options: dict[str, Any] = {"prepare": sharded_work(config, inputs, pool).prepare, "store": store}
        results = run_shards(shards, partial(make_worker, settings), pool, "ScoreActor", **options)
        counts = sorted((result.counts for result in results), key=lambda c: c["started"])
    first, *rest = counts
    return JobFigures(
        rate=sum(c["tokens"] for c in rest) / (rest[-1]["ended"] - first["ended"]),
        prepared=prepared - psutil.Process().create_time(),
        connected=connected - prepared,
        flowing=first["started"] - connected,
        batch_tokens=first["batch_tokens"],
        settings=settings,
        shards=shards,
        encoder=shard_encoder(config, inputs),
    )


def batches_of(figures: JobFigures, model: LoadedModel) -> Iterator[Batch]:
    """Yield batches as the job makes them, until there are enough tokens."""
    tokens = 0
    for table in figures.shards:
        (shard,) = table.to_pylist()
        rows = [encoded.ids for encoded in unpack_encoded(figures.encoder(shard))]
        lengths = [len(row) for row in rows]
        max_padding, max_prompts = padding_limit(model.device), figures.settings.sizes.max_prompts
        for chosen in bucket(lengths, figures.batch_tokens, max_padding, max_prompts):
            yield pad([rows[i] for i in chosen], model.tokenizer.pad_token_id or 0)
            tokens += sum(lengths[i] for i in chosen)
            if tokens >= BARE_TOKENS:
                return


@torch.inference_mode()
def bare_rate(model: LoadedModel, batches: list[Batch]) -> float:
    """Return the tokens per second of a bare loop."""
    for batch in batches[:WARM_UP]:
        run_backbone(model, *(to_device(tensor, model.device) for tensor in batch))
    synchronize(model.device)
    start = time.perf_counter()
    for batch in batches:
        run_backbone(model, *(to_device(tensor, model.device) for tensor in batch))
    synchronize(model.device)
    return sum(int(mask.sum()) for _, mask in batches) / (time.perf_counter() - start)


def compare(name: str, case: Case, folder: Path, device: torch.device) -> str:
    """Return a case's row of the table."""
    figures = run_job(case, folder, gpus=1.0 if device.type == "cuda" else 0.0)
    print(f"{name}: the job ran at {figures.rate:,.0f} tokens/s; the bare loop follows", file=sys.stderr, flush=True)
    model = load_model(case.fields["model"]["source"], str(device), case.fields["model"].get("dtype", "auto"))
    batches = list(batches_of(figures, model))
    bare = bare_rate(model, batches)
    shapes = f"{len(batches)} of {sum(ids.numel() for ids, _ in batches) / len(batches):,.0f} tokens"
    target = "" if case.target is None else f" (at least {case.target:.2f})"
    return (
        f"| {name} | {shapes} | {bare:,.0f} | {figures.rate:,.0f} | {figures.rate / bare:.3f}{target} "
        f"| {figures.prepared:.1f} s | {figures.connected:.1f} s | {figures.flowing:.1f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=["8b", "1b", "135m", SCIQ, "tiny"], default=SCIQ)
    parser.add_argument("--batches", type=int, default=200, help="batches of a model with random weights")
    parser.add_argument("--questions", type=int, default=NUM_QUESTIONS)
    parser.add_argument("--keep", choices=["prompt", "shard"], default="shard", help="what SciQ's statistics are of")
    parser.add_argument("--device", default="cuda:0")
    given = parser.parse_args()
    device = torch.device(given.device)
    targets = {"8b": 0.85, "1b": 0.85}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.case == SCIQ:
            case = sciq_case(given.questions, given.keep, folder)
        else:
            case = shape_case(given.case, given.batches, targets.get(given.case), folder, device)
        print(f"{card(device)}, {datetime.date.today()}, torch {torch.__version__}\n")
        print("| case | bare loop's batches | bare loop, tokens/s | job | ratio | input ready | Ray | first batch |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        print(compare(given.case, case, folder, device), flush=True)


if __name__ == "__main__":
    main()
