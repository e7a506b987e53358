from hypothesis import given
from hypothesis import strategies as st

from stratoscope.data import Question
from stratoscope.evaluation import Score, split_questions, validation_score


@given(st.integers(0, 40), st.sets(st.integers(0, 39)), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_parts_are_disjoint_and_no_used_question_is_held_out(
    total: int, used: set[int], held_out: int, validation: int, train: int
) -> None:
    questions = [Question(str(i), "d", "?", ()) for i in range(total)]
    ids = {str(i) for i in used}
    split = split_questions(questions, ids, held_out=held_out, validation=validation, train=train)
    parts = [[q.question_id for q in part] for part in (split.train, split.validation, split.held_out)]
    everything = [question_id for part in parts for question_id in part]
    assert len(everything) == len(set(everything))
    assert not ids & set(parts[2])
    assert (len(parts[0]) <= train, len(parts[1]) <= validation, len(parts[2]) <= held_out) == (True, True, True)
    rest = split_questions(questions, ids, held_out=held_out, validation=validation, train=None)
    assert len(rest.train) + len(rest.validation) + len(rest.held_out) == total


def test_data_sets_count_alike_in_the_validation_score() -> None:
    scores = [Score("a", "mc2", str(i), 1.0) for i in range(3)] + [Score("b", "mc2", "0", 0.0)]
    assert validation_score([*scores, Score("a", "mc1", "0", 0.0)]) == 0.5
    assert validation_score([Score("t", "perplexity", "0", 6.0, 2), Score("t", "perplexity", "1", 3.0, 1)]) == -3.0
