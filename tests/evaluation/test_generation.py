"""Generated answers, whatever batch a prompt is in."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stratoscope.evaluation import GenerationPrompt, TextGenerator
from stratoscope.evaluation.generation import _StopStrings
from stratoscope.models import LoadedModel, load_model, without_layers
from tests.models import zoo
from tests.tiny import load_tiny, word_tokenizer

PROMPTS = [
    GenerationPrompt((5, 9, 33), (), 6),
    GenerationPrompt((7, 21, 60, 11, 4, 4, 8), (), 6),
    GenerationPrompt((4,), ("w8",), 6),
]


def check_answers(model: LoadedModel, generator: TextGenerator, dropped: tuple[int, ...] = ()) -> None:
    texts = generator.answer(PROMPTS, dropped)
    with without_layers(model, dropped) as pruned:
        for prompt, text in zip(PROMPTS, texts, strict=True):
            ids = torch.tensor([prompt.ids])
            new = pruned.network.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
            whole = model.tokenizer.decode(new, skip_special_tokens=True)
            assert text == (whole if not prompt.until else whole.partition("w8")[0])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_prompts_of_different_lengths_share_a_batch(name: str, tiny_model_folder: Path) -> None:
    model = load_tiny(name, tiny_model_folder)
    generator = TextGenerator(model, 64)
    assert generator.ignores_padding
    assert sorted(map(sorted, generator.batches(PROMPTS))) == [[0, 1], [2]]
    check_answers(model, generator, (1,))


@pytest.mark.parametrize("model_type", ["recurrent_gemma", "rwkv", "trocr", "deepseek_v4"])
def test_a_model_whose_answers_padding_changes_gets_prompts_of_one_length(model_type: str, tmp_path: Path) -> None:
    zoo.tiny_model("causal", model_type).save_pretrained(tmp_path)
    zoo.write_tokenizer(tmp_path)
    model = load_model(str(tmp_path), head=True)
    generator = TextGenerator(model, 64)
    assert not generator.ignores_padding
    assert all(len(batch) == 1 for batch in generator.batches(PROMPTS))
    check_answers(model, generator)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("first", [0, 3])
def test_there_is_no_answer_where_logits_are_not_finite(bad: float, first: int, tiny_model_folder: Path) -> None:
    """Only one prompt is concerned, from one of its tokens on; the other answers are as before."""
    model = load_tiny("llama", tiny_model_folder)
    generator = TextGenerator(model, 64)
    before = generator.answer(PROMPTS)
    ((_, second),) = (batch for batch in generator.batches(PROMPTS) if len(batch) == 2)
    steps = iter(range(100))

    def overflow(_module: torch.nn.Module, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        if len(logits) == 2 and next(steps) >= first:
            logits[1, -1, 7] = bad
        return logits

    handle = model.network.lm_head.register_forward_hook(overflow)
    after = generator.answer(PROMPTS)
    handle.remove()
    assert after == [None if i == second else text for i, text in enumerate(before)]


def test_a_token_that_is_ruled_out_is_no_fault(tiny_model_folder: Path) -> None:
    model = load_tiny("llama", tiny_model_folder)
    handle = model.network.lm_head.register_forward_hook(
        lambda *args: args[2].index_fill(2, torch.tensor([99]), -torch.inf)
    )
    assert None not in TextGenerator(model, 64).answer(PROMPTS)
    handle.remove()


@contextmanager
def writing(model: LoadedModel, answers: Sequence[Sequence[int]]) -> Iterator[None]:
    """Let a model write given tokens, a row for each prompt of a batch, and w9 after them."""
    steps = itertools.count()

    def choose(_module: torch.nn.Module, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        step = next(steps)
        for row, tokens in enumerate(answers[: len(logits)]):
            logits[row, -1, tokens[step] if step < len(tokens) else model.tokenizer.convert_tokens_to_ids("w9")] = 1e6
        return logits

    handle = model.network.lm_head.register_forward_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def with_tokenizer(folder: Path, **options: Any) -> tuple[LoadedModel, Callable[[str], list[int]]]:
    """Return the tiny Llama with a word tokenizer of some options, and the function that looks its words up."""
    tokenizer = word_tokenizer(**options)
    model = replace(load_tiny("llama", folder), tokenizer=tokenizer)
    return model, lambda text: tokenizer.convert_tokens_to_ids(text.split())


def test_an_answer_ends_at_its_end_whatever_else_is_in_its_batch(tiny_model_folder: Path) -> None:
    """The tokenizer has no padding, so that token 0, which is a word to it, fills the rows of a batch."""
    model, ids = with_tokenizer(tiny_model_folder, pad=False)
    with writing(model, [ids("w4 w5 <eos>"), ids("w4 w5 w6 w7 w8")]):
        prompts = [GenerationPrompt(context, (), 5) for context in ((5, 9), (7, 4))]
        answers = TextGenerator(model, 64).answer_batch(prompts)
    assert answers == ["w4 w5", "w4 w5 w6 w7 w8"]


@pytest.mark.parametrize("configured", [None, 2, [2, 3]])
def test_an_answer_ends_at_the_ends_of_tokenizer_and_configuration(configured: Any, tiny_model_folder: Path) -> None:
    model, ids = with_tokenizer(tiny_model_folder, special=["<|im_end|>"])
    model.tokenizer.eos_token = "<|im_end|>"
    model.network.generation_config.eos_token_id = configured
    for end in ["<|im_end|>", *(["<eos>"] if configured else []), *(["<unk>"] if configured == [2, 3] else [])]:
        with writing(model, [ids(f"w4 w5 {end} w6")]):
            assert TextGenerator(model, 64).answer_batch([GenerationPrompt((5, 9), (), 5)]) == ["w4 w5"]


def test_a_special_token_may_be_a_stop_string_and_is_no_part_of_an_answer(tiny_model_folder: Path) -> None:
    model, ids = with_tokenizer(tiny_model_folder, special=["<|im_end|>"])
    with writing(model, [ids("w4 <bos> w5 <|im_end|> w6")]):
        (stopped,) = TextGenerator(model, 64).answer_batch([GenerationPrompt((5, 9), ("<|im_end|>",), 8)])
    with writing(model, [ids("w4 <bos> w5 w6 w7")]):
        (whole,) = TextGenerator(model, 64).answer_batch([GenerationPrompt((5, 9), ("w7",), 8)])
    assert (stopped, whole) == ("w4 w5", "w4 w5 w6 ")


def test_no_prompt_has_no_answer(tiny_model_folder: Path) -> None:
    assert TextGenerator(load_tiny("llama", tiny_model_folder), 64).answer([]) == []


class Letters:
    """A tokenizer whose tokens are single characters."""

    def batch_decode(self, rows: list[list[int]], **_options: object) -> list[str]:
        return ["".join(map(chr, row)) for row in rows]


@settings(max_examples=100)
@given(
    st.lists(st.text("ab\n", min_size=1, max_size=40), min_size=1, max_size=4), st.sampled_from(["\n", "ab\n", "aab"])
)
def test_an_answer_is_done_once_it_has_a_stop_string(answers: list[str], stop: str) -> None:
    """The tail that is decoded misses no stop string, since each token is searched when it comes."""
    length = max(map(len, answers))
    ids = torch.tensor([[ord("x"), *(ord(c) for c in answer.ljust(length, "b"))] for answer in answers])
    criterion = _StopStrings(Letters(), (stop,), 1, len(answers))
    for step in range(2, length + 2):
        done = criterion(ids[:, :step], torch.empty(0))
        assert done.tolist() == [stop in answer.ljust(length, "b")[: step - 1] for answer in answers]


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 5.0},
        {"num_beams": 3},
        {"suppress_tokens": list(range(3, 100))},
        {"no_repeat_ngram_size": 1},
        {"stop_strings": ["w8"]},
    ],
)
def test_answers_are_greedy_whatever_the_generation_configuration_says(options: dict, tiny_model_folder: Path) -> None:
    model = load_tiny("llama", tiny_model_folder)
    own = model.network.generation_config
    for name, value in options.items():
        setattr(own, name, value)
    for prompt, text in zip(PROMPTS, TextGenerator(model, 64).answer(PROMPTS), strict=True):
        ids = list(prompt.ids)
        with torch.inference_mode():
            for _ in range(prompt.max_tokens):
                ids.append(int(model.network(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
                if ids[-1] == own.eos_token_id:
                    break
        whole = model.tokenizer.decode(ids[len(prompt.ids) :], skip_special_tokens=True)
        assert text == (whole if not prompt.until else whole.partition("w8")[0])
    assert model.network.generation_config is own
