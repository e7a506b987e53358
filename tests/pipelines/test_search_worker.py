"""The evaluator of the search with target pruning, in this process."""

import re
from pathlib import Path

import pytest

from stratoscope.evaluation import GenerationPrompt, ItemSampling, Resampling, TextGenerator, by_task
from stratoscope.models import LoadSpec, encode_text, resolve_source
from stratoscope.pipelines.search.pruning.worker import PruningEvaluator, PruningEvaluatorSettings
from stratoscope.results.manifest import NAME
from tests.evaluation.filtered import ANSWER_TOKENS, write_filtered_task

QUESTIONS = [" ".join(f"w{(i * 11 + j * 5) % 100}" for j in range(3 + i % 3)) for i in range(12)]


def loading(model: Path) -> LoadSpec:
    return LoadSpec(resolve_source(str(model)), "cpu", "float32", None, False, False)


def evaluator(folder: Path, source: str, model: Path, filters: tuple[str, ...]) -> PruningEvaluator:
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
            cache_bytes=0,
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
