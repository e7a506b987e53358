"""Grading of answers in free text."""

import pytest

from stratoscope.evaluation import has_word


@pytest.mark.parametrize("answer", ["Paris", "42", " the moon.", "Ω", "月"])
def test_an_answer_with_a_letter_or_a_digit_has_a_word(answer: str) -> None:
    assert has_word(answer)


@pytest.mark.parametrize("answer", ["", " ", ".", "—", "...", "the", "The.", "A"])
def test_punctuation_and_articles_are_no_word(answer: str) -> None:
    assert not has_word(answer)
