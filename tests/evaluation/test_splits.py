from collections.abc import Sequence
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from stratoscope.data import Question
from stratoscope.data.qa import RawQuestion, question_prompt
from stratoscope.evaluation import QuestionSplit, Score, SplitSizes, Wordings, split_questions, validation_score


def prompts(questions: Sequence[Question]) -> set[str]:
    return {question.prompt for question in questions}


def ids(questions: Sequence[Question]) -> set[str]:
    return {question.question_id for question in questions}


@given(st.integers(0, 40), st.sets(st.integers(0, 39)), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_distinct_questions_are_divided_in_their_order_and_no_used_one_is_held_out(
    total: int, used: set[int], held_out: int, validation: int, train: int
) -> None:
    questions = [Question(str(i), "d", f"{i}?", ()) for i in range(total)]
    seen = {str(i) for i in used}
    split = split_questions({"d": questions}, seen, {"d": SplitSizes(held_out, validation, train)})
    held = [q for q in questions if q.question_id not in seen][:held_out]
    rest = [q for q in questions if q not in held]
    assert split == QuestionSplit(tuple(rest[validation:][:train]), tuple(rest[:validation]), tuple(held))
    whole = split_questions({"d": questions}, seen, {"d": SplitSizes(held_out, validation, None)})
    assert len(whole.train) + len(whole.validation) + len(whole.held_out) == total


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 15), st.integers(0, 15)), max_size=40),
    st.sets(st.integers(0, 15)),
    st.integers(0, 5),
)
def test_no_part_has_a_row_or_a_prompt_of_another_whatever_the_data_set(
    rows: list[tuple[str, int, int]], used: set[int], size: int
) -> None:
    by_dataset = {name: [Question(str(i), name, f"{p}?", ()) for d, i, p in rows if d == name] for name in "ab"}
    everything = [question for own in by_dataset.values() for question in own]
    seen = {str(i) for i in used}
    sizes = {"a": SplitSizes(size, size, None), "b": SplitSizes(2 * size, 0, 0)}
    split = split_questions(by_dataset, seen, sizes)
    for one, other in combinations((split.train, split.validation, split.held_out), 2):
        assert not ids(one) & ids(other)
        assert not prompts(one) & prompts(other)
    assert not ids(split.held_out) & seen
    assert not prompts(split.held_out) & prompts([q for q in everything if q.question_id in seen])
    assert {q.dataset for q in split.train} <= {"a"}


@given(
    st.lists(st.sampled_from("abc"), min_size=4, max_size=8),
    st.lists(st.sampled_from("abc"), max_size=12),
    st.sampled_from([" ", "  ", "\n", ", "]),
)
def test_a_question_is_found_in_a_text_by_its_words(question: list[str], text: list[str], gap: str) -> None:
    raw = RawQuestion(question=" ".join(question), row={}, right=("x",), context="Question: a b c c b a?")
    wordings = Wordings([Question("0", "d", question_prompt(raw), ())])
    holds = any(text[start : start + len(question)] == question for start in range(len(text)))
    assert wordings.appear_in(gap.join(text).upper()) == holds
    assert wordings.appear_in(f"z {gap.join(question)}! {gap.join(text)}")


def test_short_questions_are_not_searched_for() -> None:
    wordings = Wordings([Question("0", "d", "Question: Who is he?\nAnswer:", ())])
    assert not wordings.appear_in("And who is he? Nobody knows.")


def test_data_sets_count_alike_in_the_validation_score() -> None:
    scores = [Score("a", "mc2", str(i), 1.0) for i in range(3)] + [Score("b", "mc2", "0", 0.0)]
    assert validation_score([*scores, Score("a", "mc1", "0", 0.0)]) == 0.5
    assert validation_score([Score("t", "perplexity", "0", 6.0, 2), Score("t", "perplexity", "1", 3.0, 1)]) == -3.0
