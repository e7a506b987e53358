"""The evaluator: an actor that holds the model and evaluates it without given layers."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from stratoscope.errors import InputError
from stratoscope.evaluation import (
    Evaluator,
    ItemSampling,
    ItemScore,
    Resampling,
    Slice,
    TaskScores,
    TruncatedPrompts,
    by_task,
    choose_items,
    load_tasks,
)
from stratoscope.execution import BrokenProcessError
from stratoscope.models import LoadSpec, ModelCard, export_pruned, without_layers
from stratoscope.models.speed import SpeedComparison
from stratoscope.models.verify_checkpoint import ReferenceSpec, answer, check_in_fresh_process
from stratoscope.pipelines.search.pruning.checkpoint import MARK
from stratoscope.pipelines.search.pruning.store import EvaluationStore
from stratoscope.pruning import Evaluation, LayerSet, ModelSize, compare_speed, evaluate_set
from stratoscope.pruning.evaluation import join_slices, undefined_items
from stratoscope.results import Storage, check_reachable


@dataclass(frozen=True)
class PruningEvaluatorSettings:
    """The settings of an evaluator. Equal settings and sets give equal results, to the bit."""

    loading: LoadSpec
    tasks: tuple[str, ...]
    sampling: ItemSampling
    calibrated: frozenset[str]
    """Ids of the calibration prompts, which are excluded from the tasks."""
    max_length: int
    """Longest sequence that the model takes, in tokens."""
    batch_tokens: int
    rungs: tuple[float, ...]
    resampling: Resampling
    cache_bytes: int
    num_threads: int
    run: str
    """URL of the run's folder, which stores evaluations."""

    def slices(self, part: str) -> tuple[Slice, ...]:
        """Return the slices in which a part is evaluated: one for each rung of the search, otherwise a single one.

        The part `text`, which the metric perplexity_drop uses, is the text of the search's first rung.
        """
        if part == "text":
            return (Slice("text", 0.0, self.rungs[0]),)
        if part == "held_out":
            return (Slice("held_out", 0.0, 1.0),)
        starts = (0.0, *self.rungs[:-1])
        return tuple(Slice("search", start, end) for start, end in zip(starts, self.rungs, strict=True))


class PruningEvaluator:
    """Evaluates sets of dropped layers, and stores every evaluation in the run's folder."""

    def __init__(self, settings: PruningEvaluatorSettings) -> None:
        torch.set_num_threads(settings.num_threads)
        self.settings = settings
        check_reachable(settings.run)
        self.store = EvaluationStore(Storage(settings.run))
        self.model = settings.loading.load(head=True)
        tasks = [
            choose_items(task, settings.sampling, settings.calibrated, self.model.tokenizer)
            for task in load_tasks(settings.tasks)
        ]
        self.evaluator = Evaluator(
            self.model, tasks, max_batch_tokens=settings.batch_tokens, max_length=settings.max_length
        )
        self._metrics = {task.name: task.metric for task in tasks}
        self._base: dict[Slice, dict[str, TaskScores]] = {}

    def size(self) -> ModelSize:
        """Count the model's parameters; shared parameters count once."""
        layers = tuple(sum(p.numel() for p in block.module.parameters()) for block in self.model.anatomy.blocks)
        return ModelSize(sum(p.numel() for p in self.model.network.parameters()), layers)

    def chance(self, part: str) -> dict[str, float]:
        """Return the accuracy of guessing by task; for text, the share of its most frequent token."""
        chance = {task.name: task.guess for task in self.evaluator.tasks}
        for task in self.evaluator.tasks:
            if task.by_token:
                chance[task.name] = self.evaluator.majority_token(self.settings.slices(part), task.name)
        return chance

    def truncated(self) -> list[TruncatedPrompts]:
        """Return how many items, of the search and held out, have a prompt that the model cannot take whole."""
        return self.evaluator.truncated([*self.settings.slices("search"), *self.settings.slices("held_out")])

    def evaluate(self, dropped: LayerSet, part: str, num_slices: int | None = None) -> Evaluation:
        """Evaluate a set of dropped layers on the first slices of a part, or on all of them.

        Raises:
            InputError: the whole model has logits that are not finite.
        """
        start = time.perf_counter()
        slices = self.settings.slices(part)[:num_slices]
        base = join_slices([self._scores((), items) for items in slices])
        if (problem := undefined_items(base)) is not None:
            raise InputError(f"the whole model has no scores: {problem}; take another model.dtype, such as float32")
        pruned = join_slices([self._scores(dropped, items) for items in slices])
        return evaluate_set(
            dropped,
            base,
            pruned,
            chance=self.chance(part),
            resampling=self.settings.resampling,
            seconds=time.perf_counter() - start,
        )

    def remember(self, dropped: LayerSet, num_slices: int | None = None) -> None:
        """Store the hidden states of a set on the search's first slices, for sets that differ only in later layers.

        Nothing is stored if memory runs out; the sets are then computed whole.
        """
        if not dropped or not self.settings.cache_bytes:
            return
        try:
            for items in self.settings.slices("search")[:num_slices]:
                self.evaluator.remember(dropped, items, self._cache_share(items))
            return
        except torch.OutOfMemoryError:
            self.evaluator.scorer.cache.forget()
        except torch.AcceleratorError as error:
            raise BrokenProcessError(str(error)) from error
        torch.cuda.empty_cache()

    def speed(self, dropped: LayerSet) -> SpeedComparison:
        """Return the speed without some layers compared with that of the whole model."""
        return compare_speed(self.model, dropped)

    def export(self, dropped: LayerSet, url: str, card: ModelCard, mark: dict[str, Any]) -> list[SpeedComparison]:
        """Write the model without some layers as a checkpoint, which appears once a fresh process has verified it.

        Args:
            dropped: layers to leave out.
            url: folder for the checkpoint, local or an fsspec URL.
            card: content of its README.md.
            mark: content of its `stratoscope.json` besides the speed, by which a resumed run recognises it.

        Returns:
            Its decoding speed and memory compared with the original's.

        Raises:
            RunError: it cannot be written, or its answers in a fresh process are different.
        """
        self.evaluator.scorer.cache.forget()
        reference = ReferenceSpec.from_loading(
            self.settings.loading, self.model.network.dtype, self.settings.num_threads, with_original=True
        )
        with Storage(url).writing_folder(last=MARK) as folder:
            export_pruned(self.model, dropped, folder, card)
            with without_layers(self.model, dropped) as pruned:
                expected = answer(pruned.network)
            speed = check_in_fresh_process(folder, expected, reference)
            content = {**mark, "speed": [asdict(comparison) for comparison in speed]}
            (folder / MARK).write_text(json.dumps(content, indent=2), encoding="utf-8")
            return speed

    def _scores(self, dropped: LayerSet, items: Slice) -> dict[str, TaskScores]:
        if not dropped and items in self._base:
            return self._base[items]
        stored = self.store.read(dropped, items)
        # The whole model runs even if its scores are stored, because its hidden states are needed.
        cache_bytes = 0 if dropped else self._cache_share(items)
        if stored is None or cache_bytes:
            computed = self._compute(dropped, items, cache_bytes)
            if stored is None:
                self.store.write(dropped, items, computed)
                stored = computed
        scores = by_task(stored, self._metrics)
        if not dropped:
            self._base[items] = scores
        return scores

    def _compute(self, dropped: LayerSet, items: Slice, cache_bytes: int) -> list[ItemScore]:
        """Evaluate a set. Retry without hidden states if memory runs out, and end a process with a broken device."""
        try:
            return self.evaluator.evaluate(dropped, items, keep_bytes=cache_bytes)
        except torch.OutOfMemoryError:
            self.evaluator.scorer.cache.forget()
        except torch.AcceleratorError as error:
            raise BrokenProcessError(str(error)) from error
        torch.cuda.empty_cache()
        return self.evaluator.evaluate(dropped, items)

    def _cache_share(self, items: Slice) -> int:
        """Return the memory for one set's states on a slice. The whole model and a remembered set get half each."""
        slices: Sequence[Slice] = self.settings.slices("search")
        if items not in slices:
            return 0
        sizes = {part: self.evaluator.num_tokens(part) for part in slices}
        return int(self.settings.cache_bytes / 2 * sizes[items] / max(1, sum(sizes.values())))
