"""What an evaluator does: it holds the model once, and evaluates it without the layers that a caller names."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from stratoscope.evaluation import (
    Estimate,
    Evaluator,
    ItemSampling,
    ItemScore,
    Resampling,
    Slice,
    TaskScores,
    by_task,
    choose_items,
    load_tasks,
    mean_retention,
)
from stratoscope.execution import BrokenProcessError
from stratoscope.models import LoadSpec, ModelCard, export_pruned, local_folder, without_layers
from stratoscope.models.verify_checkpoint import Paired, ReferenceSpec, answer, check_in_fresh_process
from stratoscope.pipelines.search.pruning.store import EvaluationStore
from stratoscope.results import Storage, check_reachable

SPEED_SHAPE = (4, 128)
SPEED_RUNS = 5
MARK = "stratoscope.json"
"""In the folder of a checkpoint: the run it is of."""


@dataclass(frozen=True)
class PruningEvaluatorSettings:
    """All that an evaluator has to know; equal settings and sets give equal results, to the bit."""

    loading: LoadSpec
    tasks: tuple[str, ...]
    choice: ItemSampling
    calibrated: frozenset[str]
    max_length: int
    batch_tokens: int
    rungs: tuple[float, ...]
    resampling: Resampling
    cache_bytes: int
    num_threads: int
    run: str
    """URL of the run's folder, where evaluations are kept."""

    def slices(self, part: str) -> tuple[Slice, ...]:
        """Return the slices of a part, in which every set is evaluated: rung by rung, or whole.

        The part `text` is what the metric perplexity_drop reads: the text of the search's first rung.
        """
        if part == "text":
            return (Slice("text", 0.0, self.rungs[0]),)
        if part == "held_out":
            return (Slice("held_out", 0.0, 1.0),)
        starts = (0.0, *self.rungs[:-1])
        return tuple(Slice("search", start, end) for start, end in zip(starts, self.rungs, strict=True))


@dataclass(frozen=True)
class Evaluation:
    """What a set of dropped layers retains on some slices, as plain numbers."""

    dropped: tuple[int, ...]
    accuracy: dict[str, float]
    """By task."""
    raw: Estimate
    above_chance: Estimate
    bits_per_byte: float
    """Mean over tasks of language-model text; NaN where there are none."""
    seconds: float
    """Next to none where all was known."""


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model."""

    total: int
    by_layer: tuple[int, ...]

    def without(self, dropped: Sequence[int]) -> int:
        """Return what is left without some layers."""
        return self.total - sum(self.by_layer[layer] for layer in dropped)


class SearchWorker:
    """Evaluates sets of dropped layers, keeping every evaluation in the run's folder."""

    def __init__(self, settings: PruningEvaluatorSettings) -> None:
        torch.set_num_threads(settings.num_threads)
        self.settings = settings
        check_reachable(settings.run)
        self.store = EvaluationStore(Storage(settings.run))
        self.model = settings.loading.load(head=True)
        tasks = [
            choose_items(task, settings.choice, settings.calibrated, self.model.tokenizer)
            for task in load_tasks(settings.tasks)
        ]
        self.evaluator = Evaluator(
            self.model, tasks, max_batch_tokens=settings.batch_tokens, max_length=settings.max_length
        )
        self._base: dict[Slice, dict[str, TaskScores]] = {}

    def size(self) -> ModelSize:
        """Count the model's parameters, shared ones once."""
        layers = tuple(sum(p.numel() for p in block.module.parameters()) for block in self.model.anatomy.blocks)
        return ModelSize(sum(p.numel() for p in self.model.network.parameters()), layers)

    def chance(self, part: str) -> dict[str, float]:
        """Return what guessing gets right, by task: of text, the share of its most frequent token."""
        chance = {task.name: task.guess for task in self.evaluator.tasks}
        for task in self.evaluator.tasks:
            if task.by_token:
                chance[task.name] = self.evaluator.majority_token(self.settings.slices(part), task.name)
        return chance

    def evaluate(self, dropped: Sequence[int], part: str, num_slices: int | None = None) -> Evaluation:
        """Evaluate a set of dropped layers on the first slices of a part, or on all of them."""
        started = time.perf_counter()
        layers = tuple(sorted(dropped))
        slices = self.settings.slices(part)[:num_slices]
        base = _joined([self._scores((), items) for items in slices])
        after = _joined([self._scores(layers, items) for items in slices])
        raw, above = mean_retention(base, after, self.chance(part), self.settings.resampling)
        bits = [b for scores in after.values() if (b := scores.bits_per_byte) is not None]
        return Evaluation(
            dropped=layers,
            accuracy={task: scores.accuracy for task, scores in after.items()},
            raw=raw,
            above_chance=above,
            bits_per_byte=sum(bits) / len(bits) if bits else math.nan,
            seconds=time.perf_counter() - started,
        )

    def remember(self, dropped: Sequence[int], num_slices: int | None = None) -> None:
        """Keep the hidden states of a set on the search's first slices: sets that differ late start from them."""
        layers = tuple(sorted(dropped))
        if not layers or not self.settings.cache_bytes:
            return
        for items in self.settings.slices("search")[:num_slices]:
            self.evaluator.remember(layers, items, self._share(items))

    def speed(self, dropped: Sequence[int]) -> float:
        """Return tokens per second of a forward pass without some layers, the median of several."""
        ids = torch.randint(0, self.model.network.config.get_text_config().vocab_size, SPEED_SHAPE)
        ids = ids.to(self.model.device)
        seconds = []
        with torch.inference_mode(), without_layers(self.model, dropped) as pruned:
            for _ in range(SPEED_RUNS):
                started = time.perf_counter()
                pruned.backbone(ids, use_cache=False)
                if self.model.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
        return ids.numel() / float(np.median(seconds))

    def export(self, dropped: Sequence[int], url: str, card: ModelCard, mark: dict[str, Any]) -> list[Paired]:
        """Write the model without some layers as a checkpoint, which appears only once a fresh process has proved it.

        Args:
            dropped: layers to leave out.
            url: folder for the checkpoint, local or an fsspec URL.
            card: what its README.md says.
            mark: what `stratoscope.json` in it says besides its speed, so that a resumed run knows it again.

        Returns:
            Its speed against the original's.

        Raises:
            RunError: it cannot be written, or a fresh process finds another model in it.
        """
        self.evaluator.scorer.cache.forget()
        with Storage(url).writing_folder() as folder:
            export_pruned(self.model, dropped, folder, card)
            with without_layers(self.model, dropped) as pruned:
                expected = answer(pruned.network)
            pairs = check_in_fresh_process(folder, expected, self._terms())
            content = {**mark, "speed": [asdict(pair) for pair in pairs]}
            (folder / MARK).write_text(json.dumps(content, indent=2), encoding="utf-8")
            return pairs

    def _terms(self) -> ReferenceSpec:
        loading = self.settings.loading
        return ReferenceSpec(
            original=local_folder(loading.source),
            revision=loading.source.revision,
            device="auto" if loading.spread else loading.device,
            dtype=str(self.model.network.dtype).removeprefix("torch."),
            attention=loading.attention,
            trust_remote_code=loading.trust_remote_code,
            num_threads=self.settings.num_threads,
        )

    def _scores(self, dropped: tuple[int, ...], items: Slice) -> dict[str, TaskScores]:
        if not dropped and items in self._base:
            return self._base[items]
        known = self.store.read(dropped, items)
        if known is None or (not dropped and self._share(items)):
            # Of the whole model it is the hidden states that are wanted, even where its answers are known.
            keep = self._share(items) if not dropped else 0
            found = self._evaluate(dropped, items, keep)
            if known is None:
                self.store.write(dropped, items, found)
                known = found
        scores = by_task(known)
        if not dropped:
            self._base[items] = scores
        return scores

    def _evaluate(self, dropped: tuple[int, ...], items: Slice, keep_bytes: int) -> list[ItemScore]:
        """Evaluate; where memory runs out once more without kept states, and in a new process where a device broke."""
        try:
            return self.evaluator.evaluate(dropped, items, keep_bytes=keep_bytes)
        except torch.OutOfMemoryError:
            self.evaluator.scorer.cache.forget()
        except torch.AcceleratorError as error:
            raise BrokenProcessError(str(error)) from error
        torch.cuda.empty_cache()
        return self.evaluator.evaluate(dropped, items)

    def _share(self, items: Slice) -> int:
        """Return the memory for one set's states on a slice: half for the whole model, half for a remembered set."""
        if items not in self.settings.slices("search"):
            return 0
        sizes = {s: self.evaluator.num_tokens(s) for s in self.settings.slices("search")}
        return int(self.settings.cache_bytes / 2 * sizes[items] / max(1, sum(sizes.values())))


def _joined(parts: Sequence[dict[str, TaskScores]]) -> dict[str, TaskScores]:
    """Join the scores of several slices, by task, in order of item ids; a small task is not in all of them."""
    joined = {}
    for task in sorted({task for part in parts for task in part}):
        of_task = [part[task] for part in parts if task in part]
        ids = [item_id for part in of_task for item_id in part.item_ids]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        columns = [
            np.concatenate([getattr(part, name) for part in of_task])[order]
            for name in ("value", "weight", "log_likelihood", "num_bytes")
        ]
        joined[task] = TaskScores(tuple(ids[i] for i in order), *columns)
    return joined


def read_mark(url: str) -> dict[str, Any] | None:
    """Return what the mark in a checkpoint's folder says, or None where there is none."""
    try:
        mark: dict[str, Any] = json.loads(Storage(url).read(MARK))
    except FileNotFoundError:
        return None
    return mark


def make_search_worker(settings: PruningEvaluatorSettings) -> SearchWorker:
    """Make the worker of an evaluator."""
    return SearchWorker(settings)
