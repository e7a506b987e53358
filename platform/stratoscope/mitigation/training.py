"""Training under DeepSpeed: steps, checkpoints, and going on from one. It knows no Ray; a `Host` stands for that."""

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from stratoscope.errors import InputError, RunError
from stratoscope.mitigation.examples import Corpus, Plan, answer_rows, text_rows
from stratoscope.mitigation.gather import largest, summed, world_size
from stratoscope.mitigation.objective import Counts, DroppedSpan, LossTerms, MicroBatch, Objective
from stratoscope.mitigation.parameters import TrainableSpec, open_parameters
from stratoscope.mitigation.states import ReferenceStates, measured, sample
from stratoscope.models import LoadedModel, LoadSpec, kept_layers, peak_memory_bytes, without_layers

STEPS = "steps.json"
"""In a checkpoint: what was logged of the steps before it."""
TAG = "state"
MAX_PADDING = 0.25
"""Of a pass through the model."""


@dataclass(frozen=True)
class OptimizerSettings:
    """How parameters are changed."""

    learning_rate: float
    warmup: float
    """Share of the steps in which the learning rate rises; then it falls as a cosine to zero."""
    weight_decay: float
    clip: float
    """Largest norm of a gradient; 0 does not clip."""
    steps: int

    def share(self, step: int) -> float:
        """Return the share of the learning rate at a step, counted from 0; none of the steps has a rate of zero."""
        rising = round(self.warmup * self.steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, self.steps - rising))))


@dataclass(frozen=True)
class Sharding:
    """What DeepSpeed deals out to the workers."""

    stage: int = 1
    """Of ZeRO: 1 optimiser states, 2 gradients too, 3 parameters too."""
    offload: bool = False
    """Keep the optimiser's states, and of stage 3 the parameters, in the memory of the CPU."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that a worker has to know."""

    loading: LoadSpec
    dropped: tuple[int, ...]
    """Layers that the trained model lacks; the reference has them."""
    trained: TrainableSpec
    """Numbered as the whole model numbers its layers."""
    terms: LossTerms
    optimising: OptimizerSettings
    sharding: Sharding
    questions_per_step: int
    texts_per_step: int
    micro_batches: int
    checkpoint_every: int
    """Steps between two checkpoints."""
    validate_every: int
    """Steps between two validations; 0 for none."""
    num_threads: int
    seed: int


class Host(Protocol):
    """Where a worker trains."""

    rank: int

    def checkpoint(self) -> AbstractContextManager[Path | None]:
        """Yield the folder of the last checkpoint, or None where there is none."""

    def report(self, metrics: dict[str, float], folder: Path | None) -> None:
        """Tell metrics and, where one was written, keep the checkpoint in a folder; every worker calls it as often."""

    def note(self, row: dict[str, float]) -> None:
        """Tell of a step that was made; only the first worker calls it."""

    def stopping(self) -> bool:
        """Tell whether the run is to stop; only the first worker is asked."""


Validation = Callable[[LoadedModel], dict[str, float]]
"""What a model is worth on questions that are not trained on."""


def train(settings: TrainingSettings, corpus: Corpus, host: Host, validate: Validation | None = None) -> None:
    """Train until the last step, or until the run is to stop; every worker calls this.

    A loss or gradient that is no number ends the training, too; the last checkpoint, if any, is from before it.

    Args:
        settings: the same for all workers.
        corpus: likewise.
        host: where this worker trains.
        validate: called on every worker now and then; the first worker's outcome is told.
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
        self._plan = Plan(
            len(corpus.questions),
            len(corpus.texts),
            settings.questions_per_step if settings.terms.weights.uses_questions else 0,
            settings.texts_per_step if settings.terms.weights.uses_texts else 0,
            settings.micro_batches,
            settings.seed,
        )
        self._objective = _make_objective(settings, corpus, model)
        self._engine = _engine(self._objective, settings)
        self._rows: list[dict[str, float]] = []

    def run(self) -> None:
        """Go on from the last checkpoint."""
        begun = self._resume()
        settings, total = self._settings, self._settings.optimising.steps
        for step in range(begun, total):
            row = self._step(step)
            if self._host.rank == 0:
                self._host.note(row)
            if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
                return
            self._rows.append(row)
            done = step + 1
            stop = self._told_to_stop()
            last = done == total
            metrics = {"step": float(done), "loss": self._rows[-1]["loss"]}
            due = settings.validate_every and (done % settings.validate_every == 0 or last)
            if due and self._validate is not None:
                metrics |= self._validated()
            if stop or last or done % settings.checkpoint_every == 0:
                self._save(metrics)
            elif due:
                self._host.report(metrics, None)
            if stop:
                return

    def _step(self, step: int) -> dict[str, float]:
        started = time.perf_counter()
        learning_rate = float(self._engine.get_lr()[0])
        plan, engine = self._plan, self._engine
        # Dropout is a function of the step, too.
        torch.manual_seed((self._settings.seed * 1_000_003 + step) * world_size() + self._host.rank)
        questions, texts = plan.questions(step), plan.texts(step)
        counts = Counts.of(self._corpus, questions, texts)
        weights = self._settings.terms.weights.used()
        totals: dict[str, Any] = {}
        tokens = 0
        for number in range(plan.micro_batches):
            micro = self._micro(plan.micro(questions, number), plan.micro(texts, number), counts)
            tokens += self._num_tokens(micro)
            parts = engine(micro)
            # DeepSpeed takes the mean over workers and micro-batches, and what is wanted is their sum.
            scale = world_size() * plan.micro_batches
            loss = sum(weights[name] * part for name, part in parts.items())
            engine.backward(loss * scale)
            engine.step()
            for name, part in parts.items():
                totals[name] = totals.get(name, 0) + part.detach().double()
        names = sorted(totals)
        both = summed(torch.stack([*(totals[n] for n in names), self._scalar(tokens)]))
        terms = dict(zip(names, both.tolist(), strict=False))
        seconds = time.perf_counter() - started
        return {
            "step": float(step + 1),
            "loss": sum(weights[name] * terms[name] for name in names),
            **terms,
            "gradient_norm": float(engine.get_global_grad_norm() or 0.0),
            "learning_rate": learning_rate,
            "tokens": float(both[-1]),
            "tokens_per_s": float(both[-1]) / seconds,
            "peak_memory_bytes": float(largest(self._scalar(peak_memory_bytes()))),
        }

    def _micro(self, questions: Sequence[int], texts: Sequence[int], counts: Counts) -> MicroBatch:
        workers, rank = world_size(), self._host.rank
        shares = [Plan.share(questions, r, workers) for r in range(workers)]
        return MicroBatch(
            tuple(shares[rank]),
            tuple(Plan.share(texts, rank, workers)),
            [sum(len(self._corpus.questions[i].wrong) for i in share) for share in shares],
            counts,
        )

    def _num_tokens(self, micro: MicroBatch) -> int:
        chosen = [self._corpus.questions[i] for i in micro.questions]
        answers = sum(len(q.question) * (1 + len(q.wrong)) + len(q.right) + sum(map(len, q.wrong)) for q in chosen)
        return answers + sum(len(self._corpus.texts[i]) for i in micro.texts)

    def _validated(self) -> dict[str, float]:
        self._engine.eval()
        found = self._validate(self._model) if self._validate else {}
        self._engine.train()
        return found

    def _told_to_stop(self) -> bool:
        return bool(summed(self._scalar(self._host.rank == 0 and self._host.stopping())) > 0)

    def _scalar(self, value: float) -> torch.Tensor:
        # On the model's device, for workers on GPUs exchange nothing else.
        return torch.tensor(float(value), dtype=torch.float64, device=self._model.device)

    def _save(self, metrics: dict[str, float]) -> None:
        with tempfile.TemporaryDirectory(prefix="stratoscope-") as aside:
            folder = Path(aside)
            self._engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
            if self._host.rank == 0:
                (folder / STEPS).write_text(json.dumps(self._rows), encoding="utf-8")
            self._host.report(metrics, folder)

    def _resume(self) -> int:
        with self._host.checkpoint() as folder:
            if folder is None:
                return 0
            read, _ = self._engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
            if read is None:
                raise RunError(f"the checkpoint in {folder} is not whole; remove the run's training folder")
            self._rows = json.loads((folder / STEPS).read_text(encoding="utf-8"))
            return len(self._rows)


def cuts_of(num_layers: int, dropped: Sequence[int]) -> list[DroppedSpan]:
    """Return the places behind which layers were dropped; where the first ones were there is no layer before."""
    kept = kept_layers(num_layers, dropped)
    ends = [*kept[1:], num_layers]
    return [DroppedSpan(new, end - 1) for new, (old, end) in enumerate(zip(kept, ends, strict=True)) if end > old + 1]


def _make_objective(settings: TrainingSettings, corpus: Corpus, model: LoadedModel) -> Objective:
    frozen = settings.loading.load(head=True)
    frozen.network.requires_grad_(False)
    num_layers = len(frozen.anatomy)
    layer_of = tuple(kept_layers(num_layers, settings.dropped))
    renumbered = {old: new for new, old in enumerate(layer_of)}
    layers = tuple(renumbered[layer] for layer in settings.trained.layers)
    cuts = cuts_of(num_layers, settings.dropped)
    filler = int(model.tokenizer.pad_token_id or 0)
    reference = ReferenceStates(frozen, layer_of)
    weights = settings.terms.weights
    if weights.contrastive:
        rows = answer_rows(sample(corpus.questions), filler)
        reference = measured(reference, settings.trained.layers, rows)
    if weights.hidden and cuts:
        reference = measured(reference, [c.reference for c in cuts], text_rows(sample(corpus.texts), filler))
    if set(weights.used()) == {"hidden"} and not cuts:
        raise InputError("objective.hidden: no layer is left before the dropped ones, so there is nothing to match")
    network = open_parameters(model, TrainableSpec(**{**asdict(settings.trained), "layers": layers}), settings.seed)
    if settings.sharding.gradient_checkpointing:
        model.network.gradient_checkpointing_enable({"use_reentrant": False})
    network.train()
    return Objective(
        network,
        model.anatomy,
        layers=layers,
        cuts=cuts,
        terms=settings.terms,
        corpus=corpus,
        reference=reference,
        filler=filler,
        # In stage 3 workers gather parameters together, so each has to make as many passes as the others.
        max_padding=1.0 if settings.sharding.stage == 3 else MAX_PADDING,
    )


def _engine(objective: Objective, settings: TrainingSettings) -> Any:
    import deepspeed
    from torch.optim.lr_scheduler import LambdaLR

    optimising = settings.optimising
    engine, *_ = deepspeed.initialize(
        model=objective,
        model_parameters=[p for p in objective.parameters() if p.requires_grad],
        config=deepspeed_config(settings, next(objective.network.parameters()).dtype),
        lr_scheduler=lambda optimiser: LambdaLR(optimiser, optimising.share),
        dist_init_required=False,
    )
    return engine


def deepspeed_config(settings: TrainingSettings, dtype: torch.dtype) -> dict[str, Any]:
    """Return DeepSpeed's configuration."""
    optimising, sharding = settings.optimising, settings.sharding
    zero: dict[str, Any] = {"stage": sharding.stage}
    if sharding.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if sharding.stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        # What a micro-batch holds is the plan's business; DeepSpeed needs numbers that multiply out.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": settings.micro_batches,
        "gradient_clipping": optimising.clip,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optimising.learning_rate,
                "weight_decay": optimising.weight_decay,
                "torch_adam": True,
            },
        },
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "steps_per_print": 10**9,
    }
