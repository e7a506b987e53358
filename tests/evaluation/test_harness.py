"""The shipped tasks, scored here and by the harness's own model class."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stratoscope.data import read_known, row_id
from stratoscope.errors import InputError
from stratoscope.evaluation import (
    Evaluator,
    GenerationPrompt,
    ItemSampling,
    Slice,
    TextGenerator,
    TruncatedPrompts,
    by_task,
    check_answers_fit,
    check_filters,
    choose_items,
    items_digest,
    load_tasks,
    task_names,
)
from stratoscope.evaluation.bundled import BEGINNING
from stratoscope.evaluation.tasks import SHIPPED
from stratoscope.models import LoadedModel, encode_text, find_anatomy, load_tokenizer, resolve_source
from tests.evaluation.filtered import ANSWER_TOKENS, write_filtered_task

EVERYTHING = Slice("search", 0, 1)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """A tiny random Llama that reads with SmolLM2's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    network = LlamaForCausalLM(config).eval()
    return LoadedModel(network, load_tokenizer(resolve_source("smollm2")), find_anatomy(network, 3), network.device)


@pytest.mark.long
def test_every_shipped_task_scores_as_the_harness_scores_it(model: LoadedModel) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks = load_tasks(task_names())
    items = [choose_items(task, ItemSampling(6, 0), (), model.tokenizer) for task in tasks]
    evaluator = Evaluator(model, items, max_batch_tokens=1024, max_length=512)
    scores = {(score.task, score.item_id): score for score in evaluator.evaluate((), EVERYTHING)}
    harness = HFLM(pretrained=model.network, tokenizer=model.tokenizer, batch_size=4, max_length=512)
    fresh = load_tasks(task_names())
    ids = {task.config.task: [row_id(doc) for doc in task.eval_docs] for task in fresh}
    samples = {chosen.name: sorted(ids[chosen.name].index(item.item_id) for item in chosen.search) for chosen in items}
    results = simple_evaluate(
        harness, tasks=fresh, samples=samples, bootstrap_iters=0, log_samples=True, random_seed=None,
        task_manager=TaskManager(include_defaults=False),
    )  # fmt: skip
    assert results is not None
    compared = 0
    for chosen in items:
        for sample in results["samples"][chosen.name]:
            ours = scores[chosen.name, row_id(sample["doc"])]
            if chosen.by_token:
                log_likelihood, num_bytes = sample["bits_per_byte"]
                assert ours.num_bytes == num_bytes
                assert ours.log_likelihood == pytest.approx(log_likelihood, abs=1e-2)
            else:
                assert ours.value == sample[chosen.metric], (chosen.name, sample["doc"])
            if chosen.task.OUTPUT_TYPE == "multiple_choice":
                values = torch.tensor([float(answer[0]) for answer in sample["filtered_resps"]])
                shares = torch.log_softmax(values, dim=0)
                assert ours.log_probability == pytest.approx(float(shares[sample["target"]]), abs=1e-2)
            if "perplexity" in sample:
                assert ours.log_likelihood == pytest.approx(sample["perplexity"], abs=1e-3)
            compared += 1
    assert compared == 6 * len(task_names())


QUESTIONS = [f"Question: what is {i} and {7 * i}? Answer:" for i in range(8)]


def generated_words(model: LoadedModel) -> list[list[str]]:
    """Return the words of the model's own answers."""
    ids = [tuple(encode_text(model.tokenizer, question)) for question in QUESTIONS]
    texts = TextGenerator(model, 256).answer([GenerationPrompt(i, ("\n\n",), ANSWER_TOKENS) for i in ids])
    return [re.findall(r"\w+", text) for text in texts]


def test_every_filter_is_a_metric_that_scores_as_in_the_harness(model: LoadedModel, tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    words = generated_words(model)
    # The right answer is the first word, the last one, or neither.
    answers = [[own[0], own[-1], "nothing"][i % 3] if own else "nothing" for i, own in enumerate(words)]
    source = write_filtered_task(tmp_path, QUESTIONS, answers)
    (task,) = load_tasks([source])
    chosen = choose_items(task, ItemSampling(8, 0), (), model.tokenizer)
    scores = Evaluator(model, [chosen], max_batch_tokens=256, max_length=512).evaluate((), EVERYTHING)
    harness = HFLM(pretrained=model.network, tokenizer=model.tokenizer, batch_size=4, max_length=512)
    results = simple_evaluate(
        harness, tasks=load_tasks([source]), bootstrap_iters=0, log_samples=True,
        task_manager=TaskManager(include_defaults=False),
    )  # fmt: skip
    assert results is not None
    theirs = {(s["filter"], row_id(s["doc"])): s["exact_match"] for s in results["samples"]["words"]}
    assert {(s.metric.partition(",")[2], s.item_id): s.value for s in scores} == theirs
    for metric in chosen.metrics:
        accuracy = by_task(scores, {"words": metric.name})["words"].accuracy
        assert 0 < accuracy < 1
        assert accuracy == pytest.approx(results["results"]["words"][metric.name])
    strict, flexible = (by_task(scores, {"words": metric.name})["words"].value for metric in chosen.metrics)
    assert (strict != flexible).any()


def test_the_filter_that_counts_is_the_first_of_the_task_or_the_one_named(model: LoadedModel, tmp_path: Path) -> None:
    (task,) = load_tasks([write_filtered_task(tmp_path, QUESTIONS, ["a"] * 8)])
    default, named = (
        choose_items(task, ItemSampling(4, 4, filters=filters), (), model.tokenizer)
        for filters in ((), ("other", "flexible-extract"))
    )
    assert [metric.name for metric in default.metrics] == ["exact_match,strict-match", "exact_match,flexible-extract"]
    assert "exact_match,strict-match counts, the task's own first filter" in (default.note or "")
    assert named.metric == "exact_match,flexible-extract"
    assert "exact_match,flexible-extract counts, as evaluation.filters says" in (named.note or "")
    check_filters([task], ["flexible-extract"])
    with pytest.raises(InputError, match=r"evaluation.filters: .*'flexible-extrac'; did you mean 'flexible-extract'"):
        check_filters([task], ["flexible-extrac"])
    with pytest.raises(InputError, match=r"none of evaluation\.tasks has several"):
        check_filters(load_tasks(["sciq"]), ["strict-match"])


def test_a_task_of_several_sampled_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"words samples 4 answers to each item \(repeats\)"):
        load_tasks([write_filtered_task(tmp_path, QUESTIONS, ["a"] * 8, repeats=4)])


def test_the_digest_of_items_covers_labels_and_how_answers_are_scored(model: LoadedModel, tmp_path: Path) -> None:
    def digest_of(answer: str, *changes: tuple[str, str]) -> str:
        source = Path(write_filtered_task(tmp_path, QUESTIONS, [answer] * 8))
        text = source.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        source.write_text(text)
        (task,) = load_tasks([str(source)])
        return items_digest([choose_items(task, ItemSampling(4, 4), (), model.tokenizer)])

    def graded(code: str) -> str:
        (tmp_path / "grade.py").write_text(code)
        return digest_of("a", ("metric_list:", "process_results: !function grade.grade\nmetric_list:"))

    first = digest_of("a")
    assert digest_of("a") == first
    code = (
        "def right(answer, doc):\n    return answer == doc['a']\n\n"
        "def grade(doc, answers):\n    return {'exact_match': right(answers[0], doc)}\n"
    )
    digests = {
        first,
        digest_of("b"),
        digest_of("a", ("{{ a }}", "{{ q }}")),
        digest_of("a", ("group_select: -1", "group_select: -2")),
        graded(code),
        graded(code.replace("==", "!=")),
    }
    assert len(digests) == 6


def test_calibration_and_both_parts_are_disjoint_by_id(model: LoadedModel) -> None:
    (task,) = load_tasks(["sciq"])
    calibrated = [row_id(row) for row, _ in zip(read_known("sciq"), range(900), strict=False)]
    chosen = choose_items(task, ItemSampling(60, 60, seed=3), calibrated, model.tokenizer)
    search, held_out = ({item.item_id for item in part} for part in (chosen.search, chosen.held_out))
    assert not search & held_out
    assert not (search | held_out) & set(calibrated)
    assert (len(search), len(held_out), chosen.num_excluded) == (50, 50, 900)


def test_passages_leave_out_every_row_that_holds_them(model: LoadedModel) -> None:
    rows = list(read_known("boolq"))
    shared = next(r for i, r in enumerate(rows) if any(o["passage"] == r["passage"] for o in rows[:i]))
    (task,) = load_tasks(["passages"])
    chosen = choose_items(task, ItemSampling(1, 1), [row_id(shared)], model.tokenizer)
    assert chosen.num_excluded == 1


def test_passages_leave_out_other_versions_of_a_text(model: LoadedModel) -> None:
    (task,) = load_tasks(["passages"])
    # BoolQ has two versions of this page's beginning, which differ after 150 characters.
    versions = [
        r for r in read_known("boolq") if r["passage"].startswith("Ordinarily, a baseball game consists of nine")
    ]
    assert len({row["passage"] for row in versions}) == 2
    chosen = choose_items(task, ItemSampling(1, 1), [row_id(versions[0])], model.tokenizer)
    assert chosen.num_excluded == 2


def test_a_chat_template_wraps_what_is_asked(model: LoadedModel) -> None:
    (task,) = load_tasks(["sciq"])
    chosen = choose_items(task, ItemSampling(1, 1, chat=True), (), model.tokenizer)
    context = chosen.search[0].requests[0].args[0]
    assert context.startswith("<|im_start|>")
    assert context.endswith("<|im_start|>assistant\n")


def local_task(folder: Path, docs: Sequence[dict], **more: str) -> str:
    """Write a task of questions `q` with answers `a` in a test split, and further settings."""
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    rest = "".join(f"{name}: {value}\n" for name, value in more.items())
    (folder / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'docs.jsonl'}}}}}\n"
        'output_type: loglikelihood\ndoc_to_text: "{{ q }}"\ndoc_to_target: " {{ a }}"\n'
        f"metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]\n{rest}"
    )
    return str(folder / "mine.yaml")


@pytest.mark.parametrize(
    "splits",
    [{"test_split": "test"}, {"validation_split": "test"}, {"validation_split": "test", "fewshot_split": "test"}],
)
def test_no_item_is_its_own_example(splits: dict[str, str], model: LoadedModel, tmp_path: Path) -> None:
    docs = [{"q": f"w{i}", "a": f"x{i}"} for i in range(6)]
    with pytest.raises(InputError, match="mine draws examples from the items that it evaluates"):
        load_tasks([local_task(tmp_path, docs, num_fewshot="3", **splits)])
    own = {"test_split": "test", "fewshot_split": "test", "num_fewshot": "3"}
    (task,) = load_tasks([local_task(tmp_path, docs, **own)])
    for item in choose_items(task, ItemSampling(3, 3), (), model.tokenizer).search:
        assert item.doc["a"] not in item.requests[0].args[0]
    load_tasks([local_task(tmp_path, docs, **splits)])  # without examples


def test_a_blank_context_is_the_begin_of_the_sequence(model: LoadedModel, tmp_path: Path) -> None:
    """Blanks belong to the target, as the harness has it."""
    docs = [{"q": blank, "a": f"word{i}"} for i, blank in enumerate(["", " ", "\n "])]
    (task,) = load_tasks([local_task(tmp_path, docs, test_split="test")])
    chosen = choose_items(task, ItemSampling(3, 0), (), model.tokenizer)
    evaluator = Evaluator(model, [chosen], max_batch_tokens=64, max_length=64)
    for item in chosen.search:
        (request,), _ = evaluator._requests(item.requests[0])
        assert request.context == (model.tokenizer.bos_token_id,)
        assert model.tokenizer.decode(request.target) == item.doc["q"] + f" {item.doc['a']}"
    assert all(np.isfinite(score.log_likelihood) for score in evaluator.evaluate((), EVERYTHING))


def test_an_empty_prompt_is_the_begin_of_the_sequence(model: LoadedModel, tmp_path: Path) -> None:
    (task,) = load_tasks([write_filtered_task(tmp_path, ["", "one two"], ["a"] * 2)])
    chosen = choose_items(task, ItemSampling(2, 0), (), model.tokenizer)
    evaluator = Evaluator(model, [chosen], max_batch_tokens=256, max_length=64)
    prompts = evaluator._prepare(EVERYTHING).prompts.values()
    assert min((prompt.ids for prompt in prompts), key=len) == (model.tokenizer.bos_token_id,)


def test_a_local_yaml_file_is_a_task(model: LoadedModel, tmp_path: Path) -> None:
    docs = [{"q": "a b", "a": "c"}, {"q": "d", "a": "e f"}]
    (task,) = load_tasks([local_task(tmp_path, docs, test_split="test")])
    chosen = choose_items(task, ItemSampling(1, 1), (), model.tokenizer)
    scores = Evaluator(model, [chosen], max_batch_tokens=64, max_length=64).evaluate((), EVERYTHING)
    assert [s.task for s in scores] == ["mine"]


@pytest.mark.long  # the first suggestion reads all tasks of the harness
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scq", "did you mean 'sciq'"),
        ("nothing.yaml", "no such file"),
        ("harness:nosuchtask", "neither a shipped"),
    ],
)
def test_unknown_tasks_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_tasks([name])
    assert "\n" not in str(error.value)


def test_two_tasks_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="two tasks are called 'sciq'"):
        load_tasks(["sciq", str(SHIPPED / "sciq.yaml")])


def test_a_task_with_few_items_is_in_the_first_slice(model: LoadedModel) -> None:
    (task,) = load_tasks(["sciq"])
    chosen = choose_items(task, ItemSampling(2, 1), (), model.tokenizer)
    parts = [Slice("search", a, b).of(chosen) for a, b in [(0, 0.25), (0.25, 0.5), (0.5, 1)]]
    assert len(parts[0]) == 1
    assert [item for part in parts for item in part] == list(chosen.search)


def test_no_item_is_scored_by_logits_that_are_not_finite(model: LoadedModel, tmp_path: Path) -> None:
    generated = write_filtered_task(tmp_path, ["one", "two", "three", "four", "five", "six"], ["a"] * 6)
    loaded = load_tasks(["sst2", "passages", generated])
    tasks = [choose_items(task, ItemSampling(6, 0), (), model.tokenizer) for task in loaded]
    evaluator = Evaluator(model, tasks, max_batch_tokens=1024, max_length=512)
    metrics = {task.name: task.metric for task in tasks}
    whole = by_task(evaluator.evaluate((), EVERYTHING), metrics)

    def overflow(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output * torch.nan

    handle = model.network.model.layers[2].register_forward_hook(overflow)
    try:
        broken = by_task(evaluator.evaluate((), EVERYTHING), metrics)
    finally:
        handle.remove()
    assert [scores.num_undefined for scores in whole.values()] == [0] * len(whole)
    assert [scores.num_undefined for scores in broken.values()] == [6] * len(whole)
    assert all(np.isnan(scores.accuracy) for scores in broken.values())


def test_prompts_keep_what_the_answer_leaves_of_the_positions_and_cut_ones_are_counted(
    model: LoadedModel, tmp_path: Path
) -> None:
    questions = [" ".join(["word"] * length) for length in (5, 57, 58, 59, 90)]
    (task,) = load_tasks([write_filtered_task(tmp_path, questions, ["a"] * 5)])
    chosen = choose_items(task, ItemSampling(5, 0), (), model.tokenizer)
    evaluator = Evaluator(model, [chosen], max_batch_tokens=256, max_length=64)
    lengths = sorted(len(prompt.ids) for prompt in evaluator._prepare(EVERYTHING).prompts.values())
    assert lengths == [5, 57, 58, 58, 58]
    assert evaluator.truncated([EVERYTHING]) == [TruncatedPrompts("words", 2, 5, 64)]
    with pytest.raises(InputError, match=r"words generates up to 6 tokens .* no room for a prompt in the 6 positions"):
        check_answers_fit([task], ANSWER_TOKENS)


def test_contexts_that_are_cut_for_their_target_are_counted(model: LoadedModel, tmp_path: Path) -> None:
    docs = [{"q": " ".join(["word"] * length), "a": "yes"} for length in (5, 64, 65)]
    (task,) = load_tasks([local_task(tmp_path, docs, test_split="test")])
    chosen = choose_items(task, ItemSampling(3, 0), (), model.tokenizer)
    evaluator = Evaluator(model, [chosen], max_batch_tokens=256, max_length=64)
    assert [task.number for task in evaluator.truncated([EVERYTHING])] == [1]


def test_no_two_passages_are_versions_of_one_text(model: LoadedModel) -> None:
    (task,) = load_tasks(["passages"])
    chosen = choose_items(task, ItemSampling(10_000, 1), (), model.tokenizer)
    texts = [task.doc_to_target(item.doc).strip() for item in (*chosen.search, *chosen.held_out)]
    assert len({text[:BEGINNING] for text in texts}) == len(texts)
