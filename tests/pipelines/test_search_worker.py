"""The evaluator of the search with target pruning, in this process."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from stratoscope.errors import InputError, RunError
from stratoscope.evaluation import GenerationPrompt, ItemSampling, Resampling, TextGenerator, by_task
from stratoscope.models import LoadSpec, encode_text, resolve_source
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.runtime.terminal import Terminal
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.pruning.explore import Explorer
from stratoscope.pipelines.search.pruning.worker import PruningEvaluator, PruningEvaluatorSettings
from stratoscope.results import Manifest, RunFolder
from stratoscope.results.manifest import NAME
from tests.evaluation.filtered import ANSWER_TOKENS, write_filtered_task

QUESTIONS = [" ".join(f"w{(i * 11 + j * 5) % 100}" for j in range(3 + i % 3)) for i in range(12)]


def loading(model: Path) -> LoadSpec:
    return LoadSpec(resolve_source(str(model)), "cpu", "float32", None, False, False)


def evaluator(
    folder: Path, source: str, model: Path, filters: tuple[str, ...] = (), cache_bytes: int = 0
) -> PruningEvaluator:
    return PruningEvaluator(
        PruningEvaluatorSettings(
            loading=loading(model),
            tasks=(source,),
            sampling=ItemSampling(8, 4, filters=filters),
            calibrated=frozenset(),
            max_length=64,
            batch_tokens=256,
            rungs=(0.5, 1.0),
            resampling=Resampling(100),
            cache_bytes=cache_bytes,
            num_threads=1,
            run=str(folder),
        )
    )


@pytest.mark.parametrize(
    ("filters", "counts"), [((), "exact_match,strict-match"), (("flexible-extract",), "exact_match,flexible-extract")]
)
def test_all_filters_are_stored_and_one_counts(
    filters: tuple[str, ...], counts: str, tmp_path: Path, tiny_model_folder: Path
) -> None:
    model = loading(tiny_model_folder).load(head=True)
    prompts = [GenerationPrompt(tuple(encode_text(model.tokenizer, q)), ("\n\n",), ANSWER_TOKENS) for q in QUESTIONS]
    words = [re.findall(r"\w+", text) for text in TextGenerator(model, 256).answer(prompts)]
    source = write_filtered_task(tmp_path, QUESTIONS, [own[0] for own in words])
    (tmp_path / NAME).touch()
    own = evaluator(tmp_path, source, tiny_model_folder, filters)
    (task,) = own.evaluator.tasks
    assert task.metric == counts
    evaluation = own.evaluate((), "search")
    stored = [s for items in own.settings.slices("search") for s in own.store.read((), items) or []]
    assert {score.metric for score in stored} == {"exact_match,strict-match", "exact_match,flexible-extract"}
    assert len(stored) == 2 * 8
    accuracies = {metric.name: by_task(stored, {"words": metric.name})["words"].accuracy for metric in task.metrics}
    assert evaluation.accuracy == {"words": accuracies[counts]}
    assert len(set(accuracies.values())) == 2


class LocalService:
    """A service of one worker in this process."""

    size = 1

    def __init__(self, worker: PruningEvaluator) -> None:
        self._worker = worker

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._worker, method)(*args)

    def map(self, method: str, calls: Sequence[Sequence[Any]]) -> list[Any]:
        return [self.call(method, *args) for args in calls]

    def broadcast(self, method: str, *args: Any) -> None:
        self.call(method, *args)


def break_layer(worker: PruningEvaluator, *, without: int) -> None:
    """Let the last layer overflow where another layer is missing."""
    *_, last = blocks = [block.module for block in worker.model.anatomy.blocks]

    def overflow(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        whole = blocks[without] in list(worker.model.network.model.layers)
        return output if whole else output * torch.nan

    last.register_forward_hook(overflow)


def explorer(worker: PruningEvaluator, folder: Path, ratio: float = 0.25, **search: Any) -> Explorer:
    run = RunFolder(str(folder), "search", "one")
    context = RunContext(run, Manifest("search", "one", {}, 0), Terminal(Console(file=io.StringIO())))
    fields = {"space": {"ratios": [ratio]}, "search": {"rungs": [0.5, 1.0], **search}}
    return Explorer(context, validate(SearchConfig, fields), LocalService(worker), 4, ())


def test_a_trial_without_finite_likelihoods_is_an_error_and_never_the_best(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    (tmp_path / NAME).touch()
    worker = evaluator(tmp_path, "passages", tiny_model_folder)
    break_layer(worker, without=1)
    search = {"algorithm": "random", "num_samples": 4, "finalists": 3, "objective": "bits_per_byte"}
    trials = explorer(worker, tmp_path, **search).explore(None)
    failed = {trial.dropped: trial.error for trial in trials if trial.status == "error"}
    assert failed == {(1,): "the logits for 4 of 4 items of passages are not finite"}
    assert {trial.dropped for trial in trials if trial.status == "done"} == {(0,), (2,), (3,)}
    again = evaluator(tmp_path, "passages", tiny_model_folder)
    assert again.evaluate((1,), "search", 1).undefined == failed[(1,)]


def test_a_whole_model_without_finite_likelihoods_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    (tmp_path / NAME).touch()
    worker = evaluator(tmp_path, "passages", tiny_model_folder)
    worker.model.network.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match="the whole model has no scores: the logits for 8 of 8 items of passages"):
        explorer(worker, tmp_path, algorithm="random").explore(None)


def test_a_search_goes_on_where_memory_is_too_small_for_hidden_states(tmp_path: Path, tiny_model_folder: Path) -> None:
    (tmp_path / NAME).touch()
    worker = evaluator(tmp_path, "passages", tiny_model_folder, cache_bytes=10**8)
    worker.evaluate((), "search")
    run_out = pytest.MonkeyPatch()

    def predict(_batch: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    run_out.setattr(worker.evaluator.scorer, "_predict", predict)
    worker.remember((2,))
    run_out.undo()
    assert worker.evaluate((2, 3), "search").undefined is None


def test_a_search_without_trials_fails(tmp_path: Path, tiny_model_folder: Path) -> None:
    (tmp_path / NAME).touch()
    worker = evaluator(tmp_path, "passages", tiny_model_folder)
    search = {"algorithm": "beam", "num_samples": 2, "rungs": [1.0], "objective": "bits_per_byte"}
    with pytest.raises(RunError, match=r"no trial finished$"):
        explorer(worker, tmp_path, ratio=0.5, **search).explore(None)
