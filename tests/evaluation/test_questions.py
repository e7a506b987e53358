"""The evaluator of questions with right and wrong answers."""

import math
from pathlib import Path

from stratoscope.data import Answer, Question
from stratoscope.evaluation import QuestionEvaluator, TruncatedPrompts, score_question
from stratoscope.evaluation.likelihood import Likelihood
from tests.tiny import load_tiny

ANSWERS = (Answer("w5", True, "a"), Answer("w6 w7", False, "b"))


def test_a_long_prompt_is_cut_to_the_positions_that_the_answer_leaves(tiny_model_folder: Path) -> None:
    model = load_tiny("gpt2", tiny_model_folder)
    words = [f"w{i % 90}" for i in range(80)]
    scores, truncated = [], []
    for length in (47, 48, 49, 80):
        question = Question(
            dataset="d", question_id="q", prompt=" ".join(words[-length:]), answers=ANSWERS, gold=("w5",)
        )
        evaluator = QuestionEvaluator(model, [question], [], answered=["d"], max_batch_tokens=256, max_length=64)
        scores.append({score.metric: score.value for score in evaluator.evaluate()})
        truncated += evaluator.truncated()
    assert len({own["exact_match"] for own in scores[1:]}) == 1
    assert truncated == [TruncatedPrompts("d", number, 1, 64) for number in (0, 0, 1, 1)]


def test_a_question_is_truncated_if_one_of_its_answers_does_not_fit(tiny_model_folder: Path) -> None:
    model = load_tiny("gpt2", tiny_model_folder)
    questions = [
        Question(dataset="d", question_id=str(length), prompt=" ".join(["w1"] * length), answers=ANSWERS)
        for length in (62, 63, 64, 65)
    ]
    evaluator = QuestionEvaluator(model, questions, [], answered=[], max_batch_tokens=256, max_length=64)
    assert evaluator.truncated() == [TruncatedPrompts("d", 2, 4, 64)]  # the last of two tokens needs no position


def test_answers_whose_likelihoods_are_not_finite_have_no_score() -> None:
    question = Question(dataset="d", question_id="q", prompt="w1", answers=ANSWERS)
    scores = score_question(question, [Likelihood(math.nan, 0, 1), Likelihood(-2.0, 0, 2)])
    assert [score.metric for score in scores] == ["mc1", "mc2", "pairwise"]
    assert all(math.isnan(score.value) for score in scores)


def test_generated_answers_without_finite_logits_have_no_score(tiny_model_folder: Path) -> None:
    model = load_tiny("llama", tiny_model_folder)
    question = Question(dataset="d", question_id="q", prompt="w1", answers=ANSWERS, gold=("w5",))
    evaluator = QuestionEvaluator(model, [question], [], answered=["d"], max_batch_tokens=64, max_length=32)
    model.network.model.norm.weight.data.fill_(math.nan)
    scores = {score.metric: score.value for score in evaluator.evaluate()}
    assert "exact_match" in scores
    assert all(map(math.isnan, scores.values()))
