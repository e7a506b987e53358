"""Code that runs in other processes of Ray: the evaluator of models, the training loop, the writer of patches."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint

from stratoscope.digest import file_digest
from stratoscope.evaluation import (
    Evaluator,
    ItemSampling,
    QuestionEvaluator,
    Score,
    Slice,
    TruncatedPrompts,
    choose_items,
    load_tasks,
    validation_score,
)
from stratoscope.execution import WorkerHost
from stratoscope.mitigation import (
    STEPS,
    Corpus,
    Patch,
    ReferenceStates,
    TrainingSettings,
    answer_rows,
    check_frozen,
    evenly_spaced,
    make_patch,
    measure_reference,
    patched_weights,
    read_trained,
    separation,
    train,
)
from stratoscope.models import LoadedModel, LoadSpec, ModelCard, export_pruned, kept_layers, without_layers
from stratoscope.models.verify_checkpoint import ReferenceSpec, answer, check_in_fresh_process
from stratoscope.pipelines.mitigation.dataset import EvaluationSet
from stratoscope.pipelines.mitigation.store import LayerSeparation, ModelScores
from stratoscope.results import Storage

ALL_ITEMS = Slice("search", 0.0, 1.0)
OBJECTIVE = "objective"
"""Name of the metric that trials maximise."""


@dataclass(frozen=True, eq=False)
class VariantEvaluatorSettings:
    """Settings of an evaluator."""

    run: str
    """URL of the run's folder."""
    loading: LoadSpec
    data: EvaluationSet
    tasks: tuple[str, ...]
    sampling: ItemSampling
    """Items of each task."""
    used: frozenset[str]
    """Ids of rows that are excluded from the items of tasks."""
    batch_tokens: int
    max_length: int
    """Maximum number of tokens of a question or text."""
    max_positions: int
    """Maximum number of tokens of a task's prompt and answer: the longest sequence that the model takes."""
    num_threads: int


class VariantEvaluator:
    """Evaluates models that differ from one base in some tensors and layers; it holds the base once.

    Args:
        settings: settings of the evaluator.
    """

    def __init__(self, settings: VariantEvaluatorSettings) -> None:
        if settings.loading.device == "cpu":
            torch.set_num_threads(settings.num_threads)
        self._settings = settings
        self._storage = Storage(settings.run)
        self._model = settings.loading.load(head=True)
        self._questions = QuestionEvaluator(
            self._model,
            settings.data.questions,
            settings.data.texts,
            answered=settings.data.answered,
            max_batch_tokens=settings.batch_tokens,
            max_length=settings.max_length,
        )
        self._tasks = self._make_tasks() if settings.tasks else None
        self._reference = self._measure_base() if any(settings.data.separation.values()) else None

    def _measure_base(self) -> ReferenceStates:
        """Measure the hidden states of the base, which serve to standardise those of all models."""
        examples = [e for own in self._settings.data.separation.values() for e in own]
        layers = tuple(range(len(self._model.anatomy)))
        rows = answer_rows(evenly_spaced(examples), int(self._model.tokenizer.pad_token_id or 0))
        return measure_reference(ReferenceStates(self._model, layers), layers, rows)

    def _make_tasks(self) -> Evaluator:
        settings = self._settings
        items = [
            choose_items(task, settings.sampling, settings.used, self._model.tokenizer)
            for task in load_tasks(settings.tasks)
        ]
        return Evaluator(self._model, items, max_batch_tokens=settings.batch_tokens, max_length=settings.max_positions)

    def truncated(self) -> list[TruncatedPrompts]:
        """Return how many held-out questions and prompts of tasks are too long, for each data set and task."""
        tasks = [] if self._tasks is None else self._tasks.truncated([ALL_ITEMS])
        return [*self._questions.truncated(), *tasks]

    def evaluate(self, patch: str | None, dropped: tuple[int, ...]) -> ModelScores:
        """Evaluate the base with trained tensors and without some layers.

        Args:
            patch: file of the tensors in the run's folder; None leaves the base unchanged.
            dropped: layers to leave out.
        """
        tensors = {} if patch is None else read_patch(self._storage, patch)
        with patched_weights(self._model, tensors):
            scores = self._questions.evaluate(dropped)
            if self._tasks is not None:
                scores += [
                    Score(s.task, s.metric, s.item_id, s.value, s.weight)
                    for s in self._tasks.evaluate(dropped, ALL_ITEMS)
                ]
            return ModelScores(scores, list(self._separations(dropped)))

    def _separations(self, dropped: tuple[int, ...]) -> Iterator[LayerSeparation]:
        if self._reference is None:
            return
        kept = kept_layers(len(self._model.anatomy), dropped)
        with without_layers(self._model, dropped) as model:
            for dataset, examples in self._settings.data.separation.items():
                if not examples:
                    continue
                result = separation(model, examples, self._reference, kept)
                for number, layer in enumerate(kept):
                    gap, closer = (float(values[:, number].mean()) for values in (result.gap, result.closer))
                    yield LayerSeparation(dataset, layer, len(examples), gap, closer)

    def export(self, patch: str, layers: tuple[int, ...], dropped: tuple[int, ...], url: str, card: ModelCard) -> int:
        """Write a trained model as a checkpoint and verify it.

        Args:
            patch: file of the trained tensors in the run's folder.
            layers: trained layers.
            dropped: layers to leave out.
            url: folder of the checkpoint.
            card: content of its README.md.

        Returns:
            Number of tensors that are bit-identical to those of the base.

        Raises:
            RunError: a frozen tensor has changed, or a fresh process reads another model from the checkpoint.
        """
        with Storage(url).writing_folder() as folder:
            with patched_weights(self._model, read_patch(self._storage, patch)):
                export_pruned(self._model, dropped, folder, card)
                with without_layers(self._model, dropped) as pruned:
                    expected = answer(pruned.network)
            num_frozen = check_frozen(self._model, folder, layers, dropped)
            reference = ReferenceSpec.from_loading(
                self._settings.loading, self._model.network.dtype, self._settings.num_threads, with_original=False
            )
            check_in_fresh_process(folder, expected, reference)
        return num_frozen


def make_evaluator(settings: VariantEvaluatorSettings) -> VariantEvaluator:
    """Create an evaluator in its own process."""
    return VariantEvaluator(settings)


@dataclass(frozen=True, eq=False)
class TrainingLoop:
    """The training, with its validation, as each worker of Ray Train runs it."""

    settings: TrainingSettings
    corpus: Corpus
    validation: EvaluationSet | None
    """Data of the validation; None disables it."""
    batch_tokens: int
    """Maximum number of tokens in a validation batch."""
    max_length: int
    """Maximum number of tokens in a validation sequence."""

    def __call__(self, host: WorkerHost) -> None:
        """Run the training."""
        validate = None if self.validation is None else _Validator(self, self.validation)
        train(self.settings, self.corpus, host, validate)


@dataclass(eq=False)
class _Validator:
    """Computes the objective of trials. Its evaluator is created at the first call, when the model is known."""

    loop: TrainingLoop
    data: EvaluationSet
    _evaluator: QuestionEvaluator | None = None

    def __call__(self, model: LoadedModel) -> dict[str, float]:
        if self._evaluator is None:
            self._evaluator = QuestionEvaluator(
                model,
                self.data.questions,
                self.data.texts,
                answered=(),
                max_batch_tokens=self.loop.batch_tokens,
                max_length=self.loop.max_length,
            )
        return {OBJECTIVE: validation_score(self._evaluator.evaluate())}


def write_patch(run: str, name: str, checkpoint: Checkpoint, settings: TrainingSettings) -> dict[str, Any]:
    """Write the trained tensors of a checkpoint to one file.

    Args:
        run: URL of the run's folder.
        name: name of the file in the folder.
        checkpoint: a checkpoint of Ray Train, wherever it is stored.
        settings: settings of the training.

    Returns:
        `steps`, the metrics of each step; `parameters`, the number of trained parameters, which are with adapters
        theirs and not the weights that they are merged into; and `digest`, the SHA-256 of the file.
    """
    from safetensors.torch import save_file

    with checkpoint.as_directory() as folder:
        trained = read_trained(Path(folder))
        patch = make_patch(trained, settings)
        steps = json.loads(Path(folder, STEPS).read_text(encoding="utf-8"))
    with Storage(run).atomic_file(name) as path:
        save_file({key: tensor.contiguous() for key, tensor in patch.items()}, path)
        written = file_digest(path)
    return {"steps": steps, "parameters": sum(tensor.numel() for tensor in trained.values()), "digest": written}


def read_patch(storage: Storage, name: str) -> Patch:
    """Read the file of a variant's trained tensors."""
    from safetensors.torch import load

    return dict(load(storage.read(name)))
