"""What a step takes: every example once an epoch, the same after a resume, and dealt to workers without loss."""

from hypothesis import given
from hypothesis import strategies as st

from stratoscope.mitigation import BatchSchedule, OptimizerSettings, QuestionExample
from stratoscope.mitigation.examples import answer_rows, text_rows


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 3))
def test_every_example_comes_once_before_any_comes_again(total: int, size: int, seed: int) -> None:
    plan = BatchSchedule(total, 0, size, 0, 1, seed)
    taken = [i for step in range(2 * total) for i in plan.questions(step)]
    for epoch in range(size):
        assert sorted(taken[epoch * total : (epoch + 1) * total]) == list(range(total))
    assert plan.questions(5) == BatchSchedule(total, 0, size, 0, 1, seed).questions(5)
    assert plan.texts(0) == []


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 4))
def test_micro_batches_and_workers_share_a_step_without_loss(size: int, micro: int, workers: int) -> None:
    plan = BatchSchedule(100, 0, size, 0, micro, 0)
    members = plan.questions(0)
    dealt = [
        i for n in range(micro) for r in range(workers) for i in BatchSchedule.share(plan.micro(members, n), r, workers)
    ]
    assert sorted(dealt) == sorted(members)


def test_rows_hold_answers_behind_their_questions_and_predict_all_of_their_tokens() -> None:
    examples = [QuestionExample((1, 2), (3,), ((4, 5),)), QuestionExample((6,), (7, 8), ((9,), (10, 11)))]
    rows = answer_rows(examples, 0)
    assert rows.ids.tolist() == [[1, 2, 3, 0], [6, 7, 8, 0], [1, 2, 4, 5], [6, 9, 0, 0], [6, 10, 11, 0]]
    assert rows.segment.int().tolist() == [[0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0]]
    row, place, tokens = rows.predictions
    assert tokens.tolist() == [3, 7, 8, 4, 5, 9, 10, 11]
    assert row.tolist() == [0, 1, 1, 2, 2, 3, 4, 4]
    assert place.tolist() == [1, 0, 1, 1, 2, 0, 0, 1]


def test_the_first_token_of_a_text_is_not_predicted() -> None:
    _, place, tokens = text_rows([(5, 6, 7), (8, 9)], 0).predictions
    assert tokens.tolist() == [6, 7, 9]
    assert place.tolist() == [0, 1, 0]


@given(st.integers(1, 60), st.floats(0, 0.9))
def test_the_learning_rate_rises_then_falls_and_no_step_is_without_one(steps: int, warmup: float) -> None:
    optimizer = OptimizerSettings(1e-3, warmup, 0.0, 1.0, steps)
    shares = [optimizer.share(step) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)
    rising = round(warmup * steps)
    assert shares[:rising] == sorted(shares[:rising])
    assert shares[rising:] == sorted(shares[rising:], reverse=True)
    assert rising == steps or shares[rising] == 1
