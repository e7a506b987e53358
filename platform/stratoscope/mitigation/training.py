"""Training with DeepSpeed: steps, checkpoints and resuming. A `Host` provides what Ray Train provides in a job."""

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from stratoscope.errors import InputError, RunError
from stratoscope.mitigation.examples import BatchSchedule, Corpus, answer_rows, text_rows
from stratoscope.mitigation.gather import all_max, all_sum, world_size
from stratoscope.mitigation.objective import Counts, DroppedSpan, LossTerms, MicroBatch, MitigationObjective
from stratoscope.mitigation.parameters import TrainableSpec, unfreeze
from stratoscope.mitigation.states import ReferenceStates, evenly_spaced, measure_reference
from stratoscope.models import (
    LoadedModel,
    LoadSpec,
    kept_layers,
    padding_limit,
    peak_gpu_memory_bytes,
    peak_memory_bytes,
    without_layers,
)

STEPS = "steps.json"
"""File in a checkpoint with the metrics of the steps before it."""
TAG = "state"


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of AdamW and its learning rate schedule."""

    learning_rate: float
    warmup: float
    """Share of the steps in which the learning rate rises; then it falls to zero along a cosine."""
    weight_decay: float
    clip: float
    """Largest norm of the gradient; 0 disables clipping."""
    steps: int

    def share(self, step: int) -> float:
        """Return the learning rate at a step, counted from 0, as a share of the peak; no step has a rate of zero."""
        rising = round(self.warmup * self.steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, self.steps - rising))))


@dataclass(frozen=True)
class Sharding:
    """Settings of DeepSpeed's ZeRO."""

    stage: int = 1
    """Stage of ZeRO: 1 partitions optimiser states, 2 also gradients, 3 also parameters."""
    offload: bool = False
    """Whether optimiser states, and in stage 3 parameters, are kept in CPU memory."""
    gradient_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass instead of being stored."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one training, the same for all workers."""

    loading: LoadSpec
    dropped: tuple[int, ...]
    """Layers that the trained model lacks; the reference has them."""
    trainable: TrainableSpec
    """The trained parameters, with layers as the whole model numbers them."""
    terms: LossTerms
    optimizer: OptimizerSettings
    sharding: Sharding
    questions_per_step: int
    texts_per_step: int
    micro_batches: int
    checkpoint_every: int
    """Steps between two checkpoints."""
    validate_every: int
    """Steps between two validations; 0 disables validation."""
    num_threads: int
    seed: int

    def renumbered(self, num_layers: int) -> TrainableSpec:
        """Return the trained parameters with layers as the pruned model numbers them.

        Args:
            num_layers: number of layers of the whole model.
        """
        kept = kept_layers(num_layers, self.dropped)
        return replace(self.trainable, layers=tuple(kept.index(layer) for layer in self.trainable.layers))


class Host(Protocol):
    """The environment of a training worker."""

    rank: int

    def checkpoint(self) -> AbstractContextManager[Path | None]:
        """Yield the folder of the last checkpoint, or None if there is none."""

    def report(self, metrics: dict[str, float], folder: Path | None) -> None:
        """Report metrics and, if a folder is given, its checkpoint; every worker calls this equally often."""

    def note(self, row: dict[str, float]) -> None:
        """Report a finished step; only the first worker calls this."""

    def stopping(self) -> bool:
        """Return whether the run is stopping; only the first worker calls this."""


Validation = Callable[[LoadedModel], dict[str, float]]
"""Returns the metrics of a model on questions or texts that it is not trained on."""


def train(settings: TrainingSettings, corpus: Corpus, host: Host, validate: Validation | None = None) -> None:
    """Train until the last step, or until the run is stopping; every worker calls this.

    A loss or gradient that is not finite also ends the training; the last checkpoint, if any, is from before it.

    Args:
        settings: settings of the training, the same for all workers.
        corpus: the training data, the same for all workers.
        host: environment of this worker.
        validate: called on every worker every `validate_every` steps; the metrics of the first worker are reported.
    """
    if settings.loading.device == "cpu":
        torch.set_num_threads(settings.num_threads)
    with ExitStack() as stack:
        model = stack.enter_context(without_layers(settings.loading.load(head=True), settings.dropped))
        trainer = _Trainer(settings, corpus, host, model, validate)
        trainer.run()


class _Trainer:
    def __init__(
        self,
        settings: TrainingSettings,
        corpus: Corpus,
        host: Host,
        model: LoadedModel,
        validate: Validation | None,
    ) -> None:
        self._settings, self._corpus, self._host, self._validate = settings, corpus, host, validate
        self._model = model
        self._schedule = BatchSchedule(
            len(corpus.questions),
            len(corpus.texts),
            settings.questions_per_step if settings.terms.weights.uses_questions else 0,
            settings.texts_per_step if settings.terms.weights.uses_texts else 0,
            settings.micro_batches,
            settings.seed,
        )
        self._objective = make_objective(settings, corpus, model)
        self._engine = _engine(self._objective, settings)
        self._rows: list[dict[str, float]] = []

    def run(self) -> None:
        """Train, from the last checkpoint if there is one."""
        start = self._resume()
        settings, total = self._settings, self._settings.optimizer.steps
        for step in range(start, total):
            row = self._step(step)
            if self._host.rank == 0:
                self._host.note(row)
            if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
                return
            self._rows.append(row)
            done = step + 1
            stop = self._should_stop()
            last = done == total
            metrics = {"step": float(done), "loss": self._rows[-1]["loss"]}
            due = settings.validate_every and (done % settings.validate_every == 0 or last)
            if due and self._validate is not None:
                # The last step has the last number, although it may come early.
                metrics |= {"rung": float(-(-done // settings.validate_every)), **self._validation_metrics()}
            if stop or last or done % settings.checkpoint_every == 0:
                self._save(metrics)
            elif due:
                self._host.report(metrics, None)
            if stop:
                return

    def _step(self, step: int) -> dict[str, float]:
        started = time.perf_counter()
        learning_rate = float(self._engine.get_lr()[0])
        schedule, engine = self._schedule, self._engine
        # Dropout is a function of the step, too, so that a resumed run repeats it.
        torch.manual_seed((self._settings.seed * 1_000_003 + step) * world_size() + self._host.rank)
        questions, texts = schedule.questions(step), schedule.texts(step)
        counts = Counts.of(self._corpus, questions, texts)
        weights = self._settings.terms.weights.used()
        totals: dict[str, Any] = {}
        tokens = 0
        for number in range(schedule.micro_batches):
            micro = self._micro(schedule.micro(questions, number), schedule.micro(texts, number), counts)
            tokens += self._num_tokens(micro)
            parts = engine(micro)
            # DeepSpeed averages over workers and micro-batches; the loss is their sum.
            scale = world_size() * schedule.micro_batches
            loss = sum(weights[name] * part for name, part in parts.items())
            engine.backward(loss * scale)
            engine.step()
            for name, part in parts.items():
                totals[name] = totals.get(name, 0) + part.detach().double()
        names = sorted(totals)
        *sums, num_tokens = all_sum(torch.stack([*(totals[n] for n in names), self._scalar(tokens)])).tolist()
        terms = dict(zip(names, sums, strict=True))
        seconds = time.perf_counter() - started
        return {
            "step": float(step + 1),
            "loss": sum(weights[name] * terms[name] for name in names),
            **terms,
            "gradient_norm": float(engine.get_global_grad_norm() or 0.0),
            "learning_rate": learning_rate,
            "tokens": num_tokens,
            "tokens_per_s": num_tokens / seconds,
            "peak_memory_bytes": float(all_max(self._scalar(peak_memory_bytes()))),
            "peak_gpu_memory_bytes": float(all_max(self._scalar(peak_gpu_memory_bytes()))),
        }

    def _micro(self, questions: Sequence[int], texts: Sequence[int], counts: Counts) -> MicroBatch:
        workers, rank = world_size(), self._host.rank
        shares = [BatchSchedule.share(questions, r, workers) for r in range(workers)]
        return MicroBatch(
            tuple(shares[rank]),
            tuple(BatchSchedule.share(texts, rank, workers)),
            [sum(len(self._corpus.questions[i].wrong) for i in share) for share in shares],
            counts,
        )

    def _num_tokens(self, micro: MicroBatch) -> int:
        chosen = [self._corpus.questions[i] for i in micro.questions]
        answers = sum(len(q.question) * (1 + len(q.wrong)) + len(q.right) + sum(map(len, q.wrong)) for q in chosen)
        return answers + sum(len(self._corpus.texts[i]) for i in micro.texts)

    def _validation_metrics(self) -> dict[str, float]:
        self._engine.eval()
        metrics = self._validate(self._model) if self._validate else {}
        self._engine.train()
        return metrics

    def _should_stop(self) -> bool:
        return bool(all_sum(self._scalar(self._host.rank == 0 and self._host.stopping())) > 0)

    def _scalar(self, value: float) -> torch.Tensor:
        # On the model's device, since workers on GPUs communicate by nccl.
        return torch.tensor(float(value), dtype=torch.float64, device=self._model.device)

    def _save(self, metrics: dict[str, float]) -> None:
        with tempfile.TemporaryDirectory(prefix="stratoscope-") as temporary:
            folder = Path(temporary)
            self._engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
            if self._host.rank == 0:
                (folder / STEPS).write_text(json.dumps(self._rows), encoding="utf-8")
            self._host.report(metrics, folder)

    def _resume(self) -> int:
        with self._host.checkpoint() as folder:
            if folder is None:
                return 0
            path, _ = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
            if path is None:
                raise RunError(f"the checkpoint in {folder} is incomplete; remove the run's training folder")
            self._rows = json.loads((folder / STEPS).read_text(encoding="utf-8"))
            return len(self._rows)


def dropped_spans(num_layers: int, dropped: Sequence[int]) -> list[DroppedSpan]:
    """Return the spans of dropped layers, except one at the start, which no remaining layer precedes."""
    kept = kept_layers(num_layers, dropped)
    ends = [*kept[1:], num_layers]
    return [DroppedSpan(new, end - 1) for new, (old, end) in enumerate(zip(kept, ends, strict=True)) if end > old + 1]


def make_objective(settings: TrainingSettings, corpus: Corpus, model: LoadedModel) -> MitigationObjective:
    """Return the objective of a training, whose trained parameters require gradients.

    Args:
        settings: settings of the training.
        corpus: the training data.
        model: the model to train, without the dropped layers.

    Raises:
        InputError: the objective has no term to minimise.
    """
    frozen = settings.loading.load(head=True)
    frozen.network.requires_grad_(False)
    num_layers = len(frozen.anatomy)
    trainable = settings.renumbered(num_layers)
    spans = dropped_spans(num_layers, settings.dropped)
    filler = int(model.tokenizer.pad_token_id or 0)
    reference = ReferenceStates(frozen, tuple(kept_layers(num_layers, settings.dropped)))
    weights = settings.terms.weights
    if weights.contrastive:
        rows = answer_rows(evenly_spaced(corpus.questions), filler)
        reference = measure_reference(reference, settings.trainable.layers, rows)
    if weights.hidden and spans:
        reference = measure_reference(
            reference, [s.reference for s in spans], text_rows(evenly_spaced(corpus.texts), filler)
        )
    if set(weights.used()) == {"hidden"} and not spans:
        raise InputError("objective.hidden: no layer precedes the dropped ones, so there are no states to match")
    network = unfreeze(model, trainable, settings.seed)
    if settings.sharding.gradient_checkpointing:
        model.network.gradient_checkpointing_enable({"use_reentrant": False})
    network.train()
    return MitigationObjective(
        network,
        model.anatomy,
        layers=trainable.layers,
        spans=spans,
        terms=settings.terms,
        corpus=corpus,
        reference=reference,
        filler=filler,
        # In stage 3 the workers gather parameters together, so all have to make equally many passes.
        max_padding=1.0 if settings.sharding.stage == 3 else padding_limit(model.device),
    )


def _engine(objective: MitigationObjective, settings: TrainingSettings) -> Any:
    import deepspeed
    import deepspeed.ops
    from torch.optim.lr_scheduler import LambdaLR

    # DeepSpeed would compile, for a minute, an operation that only its inference uses.
    deepspeed.ops.__compatible_ops__ = {}
    optimizer = settings.optimizer
    engine, *_ = deepspeed.initialize(
        model=objective,
        model_parameters=[p for p in objective.parameters() if p.requires_grad],
        config=deepspeed_config(settings, next(objective.network.parameters()).dtype),
        lr_scheduler=lambda adamw: LambdaLR(adamw, optimizer.share),
        dist_init_required=False,
    )
    return engine


def deepspeed_config(settings: TrainingSettings, dtype: torch.dtype) -> dict[str, Any]:
    """Return DeepSpeed's configuration."""
    optimizer, sharding = settings.optimizer, settings.sharding
    zero: dict[str, Any] = {"stage": sharding.stage}
    if sharding.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if sharding.stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        # The schedule decides the size of a micro-batch; DeepSpeed needs numbers that are consistent.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": settings.micro_batches,
        "gradient_clipping": optimizer.clip,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimizer.learning_rate,
                "weight_decay": optimizer.weight_decay,
                "torch_adam": True,
            },
        },
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "steps_per_print": 10**9,
    }
