"""The evaluators: each holds the model once, and puts trained tensors into it for as long as they are judged."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint

from stratoscope.evaluation import Evaluator, ItemSampling, QuestionEvaluator, Score, Slice, choose_items, load_tasks
from stratoscope.mitigation import (
    STEPS,
    Patch,
    ReferenceStates,
    TrainingSettings,
    answer_rows,
    check_frozen,
    make_patch,
    measured,
    patched_weights,
    sample,
    separation,
)
from stratoscope.models import LoadedModel, LoadSpec, ModelCard, export_pruned, kept_layers, without_layers
from stratoscope.models.verify_checkpoint import ReferenceSpec, answer, check_in_fresh_process
from stratoscope.pipelines.mitigation.dataset import EvaluationSet
from stratoscope.results import Storage

WHOLE = Slice("search", 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class VariantEvaluatorSettings:
    """Everything that an evaluator has to know."""

    run: str
    """URL of the run's folder."""
    loading: LoadSpec
    judged: EvaluationSet
    tasks: tuple[str, ...]
    choice: ItemSampling
    """Of the items of each task."""
    used: frozenset[str]
    """Ids of rows that no item may be of."""
    batch_tokens: int
    longest: int
    num_threads: int


@dataclass(frozen=True)
class LayerSeparation:
    """How a layer tells right answers from wrong ones, on the mean over a data set's questions."""

    dataset: str
    layer: int
    """As the whole model numbers it."""
    n: int
    gap: float
    closer: float


@dataclass(frozen=True)
class Judgement:
    """What was found of a model."""

    scores: list[Score]
    separations: list[LayerSeparation]


class MitigationWorker:
    """Judges models that differ from one base in some tensors and layers.

    Args:
        settings: of the evaluator.
    """

    def __init__(self, settings: VariantEvaluatorSettings) -> None:
        if settings.loading.device == "cpu":
            torch.set_num_threads(settings.num_threads)
        self._settings = settings
        self._storage = Storage(settings.run)
        self._model = settings.loading.load(head=True)
        self._questions = QuestionEvaluator(
            self._model,
            settings.judged.questions,
            settings.judged.texts,
            answered=settings.judged.answered,
            max_batch_tokens=settings.batch_tokens,
            max_length=settings.longest,
        )
        self._tasks = self._make_tasks() if settings.tasks else None
        self._reference = self._measure() if any(settings.judged.separated.values()) else None

    def _measure(self) -> ReferenceStates:
        """Measure the base's hidden states, by which those of all models are standardised."""
        examples = [e for own in self._settings.judged.separated.values() for e in own]
        layers = tuple(range(len(self._model.anatomy)))
        rows = answer_rows(sample(examples), int(self._model.tokenizer.pad_token_id or 0))
        return measured(ReferenceStates(self._model, layers), layers, rows)

    def _make_tasks(self) -> Evaluator:
        settings = self._settings
        items = [
            choose_items(task, settings.choice, settings.used, self._model.tokenizer)
            for task in load_tasks(settings.tasks)
        ]
        return Evaluator(self._model, items, max_batch_tokens=settings.batch_tokens, max_length=settings.longest)

    def evaluate(self, patch: str | None, dropped: tuple[int, ...]) -> Judgement:
        """Judge the base with trained tensors in it and without some layers.

        Args:
            patch: file of the tensors in the run's folder; None leaves the base as it is.
            dropped: layers to leave out.
        """
        tensors = {} if patch is None else read_patch(self._storage, patch)
        with patched_weights(self._model, tensors):
            scores = self._questions.evaluate(dropped)
            if self._tasks is not None:
                metrics = {task.name: task.metric for task in self._tasks.tasks}
                scores += [
                    Score(s.task, metrics[s.task], s.item_id, s.value, s.weight)
                    for s in self._tasks.evaluate(dropped, WHOLE)
                ]
            return Judgement(scores, list(self._separations(dropped)))

    def _separations(self, dropped: tuple[int, ...]) -> Iterator[LayerSeparation]:
        if self._reference is None:
            return
        kept = kept_layers(len(self._model.anatomy), dropped)
        with without_layers(self._model, dropped) as model:
            for dataset, examples in self._settings.judged.separated.items():
                if not examples:
                    continue
                found = separation(model, examples, self._reference, kept)
                for number, layer in enumerate(kept):
                    gap, closer = (float(values[:, number].mean()) for values in (found.gap, found.closer))
                    yield LayerSeparation(dataset, layer, len(examples), gap, closer)

    def export(self, patch: str, layers: tuple[int, ...], dropped: tuple[int, ...], url: str, card: ModelCard) -> int:
        """Write a trained model as a checkpoint and see that it is the right one.

        Args:
            patch: file of the trained tensors in the run's folder.
            layers: that were trained.
            dropped: layers to leave out.
            url: folder of the checkpoint.
            card: what its README.md says.

        Returns:
            How many tensors are the base's, to the bit.

        Raises:
            RunError: a frozen tensor was changed, or a fresh process finds another model in the checkpoint.
        """
        with Storage(url).writing_folder() as folder:
            with patched_weights(self._model, read_patch(self._storage, patch)):
                export_pruned(self._model, dropped, folder, card)
                with without_layers(self._model, dropped) as left:
                    expected = answer(left.network)
            same = check_frozen(self._model, folder, layers, dropped)
            check_in_fresh_process(folder, expected, self._terms(self._model))
        return same

    def _terms(self, model: LoadedModel) -> ReferenceSpec:
        loading = self._settings.loading
        return ReferenceSpec(
            original=None,
            revision=loading.source.revision,
            device="auto" if loading.spread else loading.device,
            dtype=str(model.network.dtype).removeprefix("torch."),
            attention=loading.attention,
            trust_remote_code=loading.trust_remote_code,
            num_threads=self._settings.num_threads,
        )


def make_mitigation_worker(settings: VariantEvaluatorSettings) -> MitigationWorker:
    """Make the worker of an evaluator."""
    return MitigationWorker(settings)


def write_patch(run: str, name: str, checkpoint: Checkpoint, settings: TrainingSettings) -> dict[str, Any]:
    """Put a checkpoint's parts together as the file of a variant's tensors.

    Args:
        run: URL of the run's folder.
        name: of the file in it.
        checkpoint: of Ray Train, wherever it is kept.
        settings: of the training.

    Returns:
        `steps`, what was logged of each, and `parameters`, how many numbers were trained.
    """
    from safetensors.torch import save_file

    with checkpoint.as_directory() as folder:
        patch = make_patch(Path(folder), settings)
        steps = json.loads(Path(folder, STEPS).read_text(encoding="utf-8"))
    with Storage(run).atomic_file(name) as path:
        save_file({key: tensor.contiguous() for key, tensor in patch.items()}, path)
    return {"steps": steps, "parameters": sum(tensor.numel() for tensor in patch.values())}


def read_patch(storage: Storage, name: str) -> Patch:
    """Read the file of a variant's tensors."""
    from safetensors.torch import load

    return dict(load(storage.read(name)))
