"""Grading of answers in free text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.evaluation import equals_one_of, has_word, load_tasks
from stratoscope.evaluation.grading import ARTICLES_AND_STOP


@pytest.mark.parametrize("answer", ["Paris", "42", " the moon.", "Ω", "月"])
def test_an_answer_with_a_letter_or_a_digit_has_a_word(answer: str) -> None:
    assert has_word(answer)


@pytest.mark.parametrize("answer", ["", " ", ".", "—", "...", "the", "The.", "A"])
def test_punctuation_and_articles_are_no_word(answer: str) -> None:
    assert not has_word(answer)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("The Moon.", "moon"), ("moon", "The moon"), ("An Apple", "the apple")],
)
def test_case_punctuation_and_articles_do_not_count(answer: str, gold: str) -> None:
    assert equals_one_of(answer, ["other", gold])


@pytest.mark.parametrize(("answer", "gold"), [("the sun", "moon"), ("", "the"), ("The", "A"), ("thermos", "rmos")])
def test_other_answers_are_not_equal(answer: str, gold: str) -> None:
    assert not equals_one_of(answer, [gold])


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("A+", "A+"), ("a+.", "A+"), ("A", "A"), (" A. ", "a"), ("The", "the"), ("+", "+"), ("An", "AN")],
)
def test_a_right_answer_of_articles_and_punctuation_alone_is_right(answer: str, gold: str) -> None:
    assert equals_one_of(answer, ["other", gold])


@pytest.mark.parametrize("answer", ["", " ", ".", "-", "the", "B+"])
@pytest.mark.parametrize("gold", [["A+"], ["A", "An"], ["+", "."], [""], ["a, the"]])
def test_no_other_answer_equals_one_that_normalises_to_nothing(answer: str, gold: list[str]) -> None:
    assert not equals_one_of(answer, gold)


TEXTS = st.lists(st.sampled_from(["the ", "A", "an ", "moon", "Apple", " ", ".", "+", "?", "É", "7"]), max_size=6)


@given(TEXTS.map("".join), TEXTS.map("".join))
def test_other_answers_are_compared_as_by_the_harness(answer: str, gold: str) -> None:
    from lm_eval.api.metrics import exact_match_fn

    answer = answer.strip()
    options = {"regexes_to_ignore": ARTICLES_AND_STOP, "ignore_case": True, "ignore_punctuation": True}
    theirs = exact_match_fn(predictions=[answer], references=[gold], **options)["exact_match"] == 1
    nothing = exact_match_fn(predictions=[""], references=[gold], **options)["exact_match"] == 1
    if has_word(gold):
        assert theirs <= equals_one_of(answer, [gold])
        assert theirs == equals_one_of(answer, [gold]) or answer.rstrip(".").lower() == gold.strip().rstrip(".").lower()
    if nothing:
        assert not equals_one_of("", [gold])


@pytest.mark.parametrize("name", ["nq_open", "triviaqa"])
def test_shipped_tasks_grade_as_own_answers_are_graded(name: str) -> None:
    (task,) = load_tasks([name])
    gold = ["A+", "The Moon"]
    doc = {"question": "what", "answer": {"aliases": gold} if name == "triviaqa" else gold}
    expected = {"A+": 1.0, "moon.": 1.0, "the moon": 1.0, "": 0.0, "the": 0.0, "sun": 0.0}
    assert {text: task.process_results(doc, [text])["exact_match"] for text in expected} == expected
