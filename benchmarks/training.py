"""Measure the mitigation job's training: tokens/s and memory by stage of ZeRO, and some layers against all of them.

Two workers of one thread each, or one worker on a GPU, train SmolLM2-135M on SciQ questions, through the job. The first
steps warm up and are left out. Steps of two trainings that take the same examples are paired, and the median of their
ratios is printed. With --plain, the same objective is also trained by a plain PyTorch loop in this process, without Ray
and DeepSpeed; one worker of the job should reach 0.8 of its tokens per second.

usage: python benchmarks/training.py [--steps N] [--batch N] [--layers N,N,...] [--variants NAME ...] [--dtype NAME]
       [--gpu] [--plain]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import stratoscope
from stratoscope.execution import cluster
from stratoscope.mitigation import Corpus, QuestionExample, TrainingSettings, answer_rows
from stratoscope.mitigation.examples import BatchSchedule
from stratoscope.mitigation.objective import Counts, MicroBatch
from stratoscope.mitigation.training import make_objective
from stratoscope.models import LoadedModel, encode_pair, load_model, resolve_source
from stratoscope.pipelines.mitigation.config import MitigationConfig
from stratoscope.pipelines.mitigation.dataset import load_data
from stratoscope.pipelines.reporting.formatting import memory_text
from stratoscope.pipelines.runtime.config import validate

WARM_UP, MAX_LENGTH = 3, 2048
Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """The settings in which trainings differ."""

    title: str
    layers: str
    stage: int
    method: str = "whole"


VARIANTS: dict[str, Callable[[str], Variant]] = {
    "zero1": lambda layers: Variant(f"layers {layers}, ZeRO 1", layers, 1),
    "zero2": lambda layers: Variant(f"layers {layers}, ZeRO 2", layers, 2),
    "zero3": lambda layers: Variant(f"layers {layers}, ZeRO 3", layers, 3),
    "all": lambda _layers: Variant("all layers, ZeRO 1", "all", 1),
    "lora": lambda layers: Variant(f"layers {layers}, LoRA", layers, 1, "lora"),
}


def fields(variant: Variant, given: argparse.Namespace) -> dict[str, Any]:
    """Return the configuration of a training by the job."""
    return {
        "model": {"source": "smollm2", "dtype": given.dtype},
        "layers": variant.layers,
        "compare": ["flagged"],
        "parameters": {"method": variant.method},
        "pairs": {"limit": max(100, 4 * given.batch)},
        "train": {
            "max_steps": given.steps,
            "questions": given.batch,
            "texts": given.batch,
            "zero": variant.stage,
            "num_workers": 1 if given.gpu or given.plain else 2,
            "gpus": 1 if given.gpu else 0,
            "checkpoint_every": given.steps,
        },
        "evaluation": {"limit": 4},
        "keep": {"models": "none"},
    }


def train(variant: Variant, given: argparse.Namespace) -> stratoscope.MitigationRun:
    """Train by the job and return the run."""
    return stratoscope.mitigate(**fields(variant, given))


def plain_rate(given: argparse.Namespace) -> float:
    """Return the tokens per second of a plain loop over the steps of the job, without those that warm up."""
    config = validate(MitigationConfig, fields(VARIANTS["zero1"](given.layers), given))
    loading = config.model.to_loading(resolve_source("smollm2"), 1 if given.gpu else 0)
    model = loading.load(head=True)
    data = load_data(config, model.tokenizer, frozenset(), MAX_LENGTH)
    settings = TrainingSettings(
        loading=loading,
        dropped=(),
        trainable=config.parameters.to_spec(tuple(map(int, given.layers.split(",")))),
        terms=config.terms,
        optimizer=config.train.to_optimizer(),
        sharding=config.train.to_sharding(),
        questions_per_step=config.train.questions,
        texts_per_step=config.train.texts,
        micro_batches=1,
        checkpoint_every=given.steps,
        validate_every=0,
        num_threads=torch.get_num_threads(),
        seed=config.seed,
    )
    objective = make_objective(settings, data.corpus, model)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.optimizer.learning_rate, fused=True)
    corpus, weights = data.corpus, settings.terms.weights.used()
    schedule = BatchSchedule(len(corpus.questions), len(corpus.texts), given.batch, given.batch, 1, settings.seed)
    rates = []
    for step in range(given.steps):
        questions, texts = schedule.questions(step), schedule.texts(step)
        wrong = [sum(len(corpus.questions[i].wrong) for i in questions)]
        micro = MicroBatch(tuple(questions), tuple(texts), wrong, Counts.of(corpus, questions, texts))
        started = time.perf_counter()
        optimizer.zero_grad()
        loss = sum(weights[name] * part for name, part in objective(micro).items())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.optimizer.clip)
        optimizer.step()
        float(loss.detach())  # waits for the device, as the job does for its metrics
        rates.append(num_tokens(corpus, questions, texts) / (time.perf_counter() - started))
    return statistics.median(rates[WARM_UP:])


def num_tokens(corpus: Corpus, questions: Sequence[int], texts: Sequence[int]) -> int:
    """Return the tokens of a step, counted as the job counts them."""
    chosen = [corpus.questions[i] for i in questions]
    answers = sum(len(q.question) * (1 + len(q.wrong)) + len(q.right) + sum(map(len, q.wrong)) for q in chosen)
    return answers + sum(len(corpus.texts[i]) for i in texts)


def seconds(run: stratoscope.MitigationRun) -> list[float]:
    """Return what each step took, without those that warm up."""
    return [row["tokens"] / row["tokens_per_s"] for row in run.table("training").to_pylist()[WARM_UP:]]


def told(name: str, run: stratoscope.MitigationRun) -> list[float]:
    """Print a training's rate and memory, and return its steps' seconds."""
    steps = run.table("training").to_pylist()[WARM_UP:]
    (variant,) = run.table("variants").to_pylist()
    rate = statistics.median(row["tokens_per_s"] for row in steps)
    taken = seconds(run)
    print(
        f"| {name} | {variant['trained_parameters'] / 1e6:.1f} M | {rate:,.0f} | {statistics.median(taken):.2f} s | "
        f"{memory_text(variant['peak_memory_bytes'], variant['peak_gpu_memory_bytes'])} |",
        flush=True,
    )
    return taken


def ratios(ones: Sequence[float], others: Sequence[float]) -> str:
    """Return the median of paired ratios, and their range."""
    found = sorted(one / other for one, other in zip(ones, others, strict=True))
    return f"{statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f}, {len(found)} pairs of steps)"


def prefix_share(lowest: int, given: argparse.Namespace) -> float:
    """Return the time of a forward pass through the layers below a number over that through all, without the head."""
    torch.set_num_threads(2)
    model = load_model("smollm2", dtype=given.dtype, head=True)
    context, answer = encode_pair(model.tokenizer, "What is it that plants make out of light and air?", " sugar")
    example = QuestionExample(tuple(context), tuple(answer), (tuple(answer), tuple(answer)))
    rows = answer_rows([example] * 16, 0)
    found = []
    for _ in range(7):
        whole = _pass_seconds(model, rows.ids, None)
        found.append(_pass_seconds(model, rows.ids, lowest) / whole)
    return statistics.median(found)


class _Reached(Exception):  # noqa: N818 - ends a pass early and is no error
    pass


def _pass_seconds(model: LoadedModel, ids: torch.Tensor, until: int | None) -> float:
    def stop(*_: object) -> None:
        raise _Reached

    handle = None if until is None else model.anatomy.blocks[until].module.register_forward_pre_hook(stop)
    started = time.perf_counter()
    try:
        with torch.no_grad():
            model.backbone(ids, use_cache=False)
    except _Reached:
        pass
    finally:
        if handle is not None:
            handle.remove()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8, help="questions, and texts, of a step")
    parser.add_argument("--layers", default="15,18,20,22,25,28")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--gpu", action="store_true", help="train on a GPU, with one worker")
    parser.add_argument("--plain", action="store_true", help="compare one worker with a plain loop")
    given = parser.parse_args()
    lowest = min(map(int, given.layers.split(",")))
    print("| trained | parameters | tokens/s | step | peak memory of a worker |\n|---|---|---|---|---|")
    runs, taken = {}, {}
    with cluster():  # one Ray for all trainings
        for name in given.variants:
            variant = VARIANTS[name](given.layers)
            runs[name] = train(variant, given)
            taken[name] = told(variant.title, runs[name])
    if given.plain:
        rate, (name, run) = plain_rate(given), next(iter(runs.items()))
        job = statistics.median(row["tokens_per_s"] for row in run.table("training").to_pylist()[WARM_UP:])
        print(f"\nplain loop: {rate:,.0f} tokens/s; job, {name}: {job / rate:.2f} of it (at least 0.8)")
    if {"zero1", "all"} <= set(taken):
        print(f"\nstep of some layers / of all: {ratios(taken['zero1'], taken['all'])}")
        print(f"layers below {lowest} / all layers, forward: {prefix_share(lowest, given):.3f}")


if __name__ == "__main__":
    main()
