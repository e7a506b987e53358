"""Trainings on one or two processes of this machine, without Ray: what Ray Train's workers do, in small."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from torch import Generator, multiprocessing, randint

from stratoscope.mitigation import (
    STEPS,
    Corpus,
    LossTerms,
    OptimizerSettings,
    QuestionExample,
    Sharding,
    TrainableSpec,
    TrainingSettings,
    Weights,
    train,
)
from stratoscope.models import LoadSpec, resolve_source


def corpus() -> Corpus:
    """Twenty questions with one to three wrong answers, and ten texts."""
    generator = Generator().manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(randint(4, 100, (length,), generator=generator).tolist())

    questions = tuple(
        QuestionExample(ids(6), ids(3), tuple(ids(2 + i % 3) for i in range(1 + k % 3))) for k in range(20)
    )
    return Corpus(questions, tuple(ids(12 + k) for k in range(10)))


def settings(folder: Path, **changes: object) -> TrainingSettings:
    """All terms but those of recovery, two layers trained in full, six steps of four questions and four texts."""
    base = TrainingSettings(
        loading=LoadSpec(resolve_source(str(folder)), "cpu", "float32", None, False, False),
        dropped=(),
        trainable=TrainableSpec((1, 3)),
        terms=LossTerms(Weights(contrastive=1.0, likelihood=0.5, margin=0.5, forgetting=1.0, text=0.3)),
        optimizer=OptimizerSettings(learning_rate=1e-3, warmup=0.1, weight_decay=0.0, clip=1.0, steps=6),
        sharding=Sharding(),
        questions_per_step=4,
        texts_per_step=4,
        micro_batches=1,
        checkpoint_every=3,
        validate_every=0,
        num_threads=1,
        seed=0,
    )
    return replace(base, **changes)


class SpawnedHost:
    """A worker whose checkpoints go to a folder that it shares with the others."""

    def __init__(self, rank: int, folder: Path, start: Path | None, stop_after: int | None) -> None:
        self.rank, self._folder, self._start, self._stop_after, self._done = rank, folder, start, stop_after, 0

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        yield self._start

    def report(self, _metrics: dict[str, float], folder: Path | None) -> None:
        if folder is not None:
            shutil.copytree(folder, self._folder, dirs_exist_ok=True)
        dist.barrier()

    def note(self, row: dict[str, float]) -> None:
        self._done = row["step"]

    def stopping(self) -> bool:
        return self._stop_after is not None and self._done >= self._stop_after


def _work(rank: int, workers: int, port: int, arguments: tuple) -> None:
    wanted, folder, start, stop_after = arguments
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(workers),
    }
    dist.init_process_group("gloo", rank=rank, world_size=workers)
    train(wanted, corpus(), SpawnedHost(rank, folder, start, stop_after))
    dist.destroy_process_group()


def run_training(
    workers: int, wanted: TrainingSettings, folder: Path, *, start: Path | None = None, stop_after: int | None = None
) -> list[dict[str, float]]:
    """Train on some processes and return what was logged; the last checkpoint is in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_work, (workers, port, (wanted, folder, start, stop_after)), nprocs=workers)
    rows: list[dict[str, float]] = json.loads((folder / STEPS).read_text())
    return rows
