"""Labels and statistics of answers."""

import numpy as np

from stratoscope.scoring import AnswerObservations, AnswerSet, AnswerStatistics, AnswerView, Labels


def answer_set(num_answers: int = 4) -> AnswerSet:
    ids = [f"q{index // 2}" for index in range(num_answers)]
    right = np.arange(num_answers) % 2 == 0
    return AnswerSet.from_columns(ids, right, np.full(num_answers, 3), np.zeros(num_answers))


def test_questions_are_numbered_in_order_of_their_first_answer() -> None:
    answers = AnswerSet.from_columns(
        ["b", "a", "b"], np.array([True, False, False]), np.array([2, 3, 4]), np.array([-1.0, -2.0, -3.0])
    )
    assert answers.question_ids == ("b", "a")
    assert answers.labels.question.tolist() == [0, 1, 0]
    assert answers.labels.wrong.tolist() == [False, True, True]
    assert len(answers) == 3


def test_selected_questions_are_renumbered() -> None:
    labels = Labels(np.array([0, 1, 1, 2]), np.array([True, True, False, False]), np.array([1, 2, 3, 4]))
    selected, answers = labels.select_questions(np.array([False, True, True]))
    assert answers.tolist() == [False, True, True, True]
    assert selected.question.tolist() == [0, 0, 1]
    assert selected.tokens.tolist() == [2, 3, 4]
    assert labels.testable.tolist() == [False, True, False]


def test_a_view_selects_the_variance_and_the_threshold() -> None:
    variance = np.array([[1.0, 0.0], [2.0, 3.0]])
    statistics = AnswerStatistics(variance, variance * 10, np.stack([variance, variance + 1], axis=-1))
    elementwise = statistics.readings(AnswerView("answer", "elementwise", 0))
    assert elementwise.variance.tolist() == [[1.0, 1e-30], [2.0, 3.0]], "a silent tap has a variance above 0"
    pooled = statistics.readings(AnswerView("answer", "pooled", 1))
    assert pooled.variance[1].tolist() == [20.0, 30.0]
    assert pooled.sparsity.tolist() == (variance + 1).tolist()
    both = AnswerStatistics.concatenate([statistics, statistics])
    assert both.sparsity.shape == (4, 2, 2)


def test_a_change_is_relative_to_the_question() -> None:
    answer, question = np.array([[2.0], [4.0], [9.0], [3.0]]), np.array([[2.0], [3.0]])
    observations = AnswerObservations(
        {"d": answer_set()},
        {"block": ()},
        {
            ("d", "block", part): AnswerStatistics(values, values, values[..., None])
            for part, values in (("answer", answer), ("question", question))
        },
    )
    readings = observations.readings("d", AnswerView("change", "elementwise", 0))["block"]
    assert readings.variance.ravel().tolist() == [1.0, 2.0, 3.0, 1.0]
    assert observations.without({"d"}).answers == {}


def observations_of(variance: dict[str, np.ndarray], pooled: dict[str, np.ndarray] | None = None) -> AnswerObservations:
    """Observations of a data set with the given variances by tap."""
    return AnswerObservations(
        {"d": answer_set(len(next(iter(variance.values()))))},
        dict.fromkeys(variance, ()),
        {
            ("d", tap, "answer"): AnswerStatistics(v, (pooled or variance)[tap], np.full((*v.shape, 1), 0.5))
            for tap, v in variance.items()
        },
    )


def test_a_layer_without_activations_has_no_reading_and_a_tap_without_any_is_left_out() -> None:
    absent = np.array([[1.0, np.nan], [2.0, np.nan]])
    seen = observations_of({"block": absent, "mlp": np.full((2, 2), np.nan)})
    view = AnswerView("answer", "elementwise", 0)
    assert seen.without_unreadable([view]).answers["d"].labels.wrong.tolist() == [False, True]
    readings = seen.readings("d", view)
    assert list(readings) == ["block"]
    assert readings["block"].readable.tolist() == [True, False]


def test_an_answer_that_cannot_be_read_at_one_layer_is_left_out_and_not_the_layer() -> None:
    variance = np.arange(1.0, 13.0).reshape(6, 2)
    variance[4, 1] = np.nan
    elementwise, pooled = (AnswerView("answer", kind, 0) for kind in ("elementwise", "pooled"))
    seen = observations_of({"block": np.ones((6, 2))}, pooled={"block": variance})
    assert len(seen.without_unreadable([elementwise]).answers["d"]) == 6
    assert seen.readings("d", pooled)["block"].readable.tolist() == [True, False]
    kept = seen.without_unreadable([elementwise, pooled])
    assert kept.answers["d"].labels.question.tolist() == [0, 0, 1, 1, 2], "questions keep their numbers"
    reading = kept.readings("d", pooled)["block"]
    assert reading.readable.all()
    assert reading.variance[:, 0].tolist() == [1, 3, 5, 7, 11]
