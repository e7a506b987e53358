"""Training of the variants by Ray Train. If a search is configured, each variant is tuned before its training."""

import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stratoscope.errors import RunError, first_line
from stratoscope.execution import fit, run_remote
from stratoscope.mitigation import TrainingSettings, Variant
from stratoscope.pipelines.mitigation.dataset import TrainingInputs
from stratoscope.pipelines.mitigation.store import TrainedVariant, VariantStore
from stratoscope.pipelines.mitigation.tune import DIVERGED, TRAINING, read_search, tuned_settings
from stratoscope.pipelines.mitigation.worker import TrainingLoop, write_patch
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.results import Storage

logger = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"
OPERATIONAL = ("learning_rate", "gradient_norm", "tokens_per_s", "peak_memory_bytes", "peak_gpu_memory_bytes")
"""Metrics of a step that are not terms of the loss."""


def train_variants(
    context: RunContext, inputs: TrainingInputs, store: VariantStore, variants: Sequence[Variant]
) -> tuple[list[TrainedVariant], dict[Variant, str]]:
    """Train all variants that are not finished.

    Returns:
        The trained variants, and the errors of the others.

    Raises:
        RunError: the run is stopping, or every training failed.
    """
    trained: list[TrainedVariant] = []
    failed: dict[Variant, str] = {}
    for variant in variants:
        try:
            trained.append(
                _finished(context, inputs, store, variant, variants) or _train(context, inputs, store, variant)
            )
        except Exception as error:
            if context.stopping.is_set():
                raise
            logger.exception("training %s failed", variant.key)
            failed[variant] = first_line(error)
    if not trained:
        raise RunError(f"every training failed; the first, {variants[0].key}: {failed[variants[0]]}")
    return trained, failed


def _finished(
    context: RunContext, inputs: TrainingInputs, store: VariantStore, variant: Variant, variants: Sequence[Variant]
) -> TrainedVariant | None:
    """Return the finished training of a variant, or None.

    If its search has to be repeated, it may choose other settings, so that the trainings of all seeds are repeated too.
    """
    if inputs.config.tune.num_samples and read_search(context.storage, variant.name) is None:
        for other in variants:
            if other.name == variant.name:
                store.forget(other)
        return None
    return store.read_training(variant)


def _train(context: RunContext, inputs: TrainingInputs, store: VariantStore, variant: Variant) -> TrainedVariant:
    settings = inputs.settings(variant)
    if inputs.config.tune.num_samples:
        settings = tuned_settings(context, inputs, variant)
    with context.stage("train"):
        started = time.perf_counter()
        result = _fit(context, inputs, variant, settings, store.patch(variant))
        trained = TrainedVariant(
            variant,
            settings.trainable.layers,
            settings.optimizer.learning_rate,
            result["steps"],
            result["parameters"],
            diverged=len(result["steps"]) < settings.optimizer.steps,
            seconds=round(time.perf_counter() - started, 3),
            digest=result["digest"],
        )
        store.write_training(trained)
        context.storage.child(TRAINING).remove(variant.key)
    return trained


def _fit(
    context: RunContext, inputs: TrainingInputs, variant: Variant, settings: TrainingSettings, patch: str
) -> dict[str, Any]:
    """Train a variant, write its tensors, and return the result of `write_patch`."""
    loop = TrainingLoop(settings, inputs.data.corpus, None, inputs.batch_tokens, inputs.max_length)
    with (
        context.progress(f"train {variant.key}", settings.optimizer.steps, 0, "steps", "tokens") as bar,
        _curves(context.storage, variant.key) as draw,
    ):

        def on_step(row: Mapping[str, float]) -> None:
            draw(row)
            bar.add(max(0, int(row["step"]) - bar.done), int(row["tokens"]))

        checkpoint = fit(
            loop,
            inputs.workers,
            context.storage.child(TRAINING),
            variant.key,
            on_step=on_step,
            stopping=context.stopping,
        )
    if checkpoint is None:
        raise RunError(DIVERGED)
    # The task that writes the tensors has no GPU, so it uses the CPU.
    on_cpu = replace(settings, loading=replace(settings.loading, device="cpu", dtype=inputs.dtype, spread=False))
    result: dict[str, Any] = run_remote(write_patch, context.url, patch, checkpoint, on_cpu, cpus=inputs.workers.cpus)
    return result


def curve_values(row: Mapping[str, float]) -> dict[str, float]:
    """Return the values of a step by the names of their TensorBoard curves."""
    groups = {name: "training" if name in OPERATIONAL else "loss" for name in row if name not in ("step", "tokens")}
    return {f"{group}/{name}": row[name] for name, group in groups.items()}


@contextmanager
def _curves(storage: Storage, name: str) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield a function that writes a step's curves to the run's folder.

    Object stores get them when the block ends, also by an error. Each start of a run adds a file of its own.
    """
    local = storage.local_path(TENSORBOARD, name)
    if local is not None:
        with _summary_writer(str(local)) as write:
            yield write
        return
    with tempfile.TemporaryDirectory(prefix="stratoscope-") as folder:
        try:
            with _summary_writer(folder) as write:
                yield write
        finally:
            for file in Path(folder).iterdir():
                storage.write(f"{TENSORBOARD}/{name}/{file.name}", file.read_bytes())


@contextmanager
def _summary_writer(folder: str) -> Iterator[Callable[[Mapping[str, float]], None]]:
    from tensorboardX import SummaryWriter

    def write(row: Mapping[str, float]) -> None:
        for name, value in curve_values(row).items():
            writer.add_scalar(name, value, int(row["step"]))
        writer.flush()

    # The library names files by the second and the host; a second start must not overwrite the curves of the first.
    writer = SummaryWriter(folder, filename_suffix=f".{uuid.uuid4().hex[:8]}")
    try:
        yield write
    finally:
        writer.close()
