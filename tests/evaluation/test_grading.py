"""Grading of answers in free text."""

import pytest

from stratoscope.evaluation import equals_one_of, has_word


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
