"""The evaluator of questions with right and wrong answers, and of texts: scores a model item by item."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from stratoscope.data import Question
from stratoscope.evaluation.generation import GenerationPrompt, TextGenerator
from stratoscope.evaluation.grading import equals_one_of
from stratoscope.evaluation.likelihood import Likelihood, Scorer
from stratoscope.evaluation.rows import Batch, Request
from stratoscope.evaluation.truncation import TruncatedPrompts, fit_prompt, fit_request
from stratoscope.models import LoadedModel, encode_pair, encode_text

LOG_SCALE = ("perplexity",)
"""Metrics that are the exponential of a mean."""
LOWER_IS_BETTER = ("perplexity",)
ANSWER_TOKENS = 16
END_OF_ANSWER = "\n"


@dataclass(frozen=True)
class Score:
    """The score of one item. A metric is the sum of values over that of weights; perplexity is its exponential."""

    dataset: str
    metric: str
    """mc1, mc2, pairwise, exact_match, perplexity, or the metric of a task."""
    item_id: str
    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Text:
    """A text whose perplexity is measured."""

    dataset: str
    text_id: str
    ids: tuple[int, ...]


class QuestionEvaluator:
    """Scores questions and texts with one model.

    Args:
        model: with its causal head.
        questions: with right and wrong answers.
        texts: texts whose perplexity is measured.
        answered: data sets whose questions the model also answers in free text; their right answers are short.
        max_batch_tokens: largest number of tokens in a batch, padding included.
        max_length: longest sequence that the model takes.
    """

    def __init__(
        self,
        model: LoadedModel,
        questions: Sequence[Question],
        texts: Sequence[Text],
        *,
        answered: Collection[str],
        max_batch_tokens: int,
        max_length: int,
    ) -> None:
        self._model, self._questions, self._texts = model, list(questions), list(texts)
        self._max_length = max_length
        self._answered = frozenset(answered)
        self._scorer = Scorer(model, max_batch_tokens)
        self._generator = TextGenerator(model, max_batch_tokens)
        self._truncated: Counter[str] = Counter()
        self._prompts: dict[int, GenerationPrompt] = {}
        requests: list[Request] = []
        for index, question in enumerate(self._questions):
            requests += self._prepare(index, question)
        self._ends = [0, *np.cumsum([len(q.answers) for q in self._questions]).tolist()]
        requests += [Request(text.ids[:1], text.ids[1 : max_length + 1]) for text in self._texts]
        self._batches: list[Batch] = self._scorer.batches(requests) if requests else []

    def evaluate(self, dropped: Sequence[int] = ()) -> list[Score]:
        """Score all questions and texts with the current weights of the model, without some of its layers."""
        likelihoods = self._scorer.score(self._batches, dropped)
        scores: list[Score] = []
        for question, (start, end) in zip(self._questions, pairwise(self._ends), strict=True):
            scores += score_question(question, [likelihoods[i] for i in range(start, end)])
        for number, text in enumerate(self._texts, start=self._ends[-1]):
            likelihood = likelihoods[number]
            scores.append(
                Score(text.dataset, "perplexity", text.text_id, -likelihood.log_likelihood, likelihood.tokens)
            )
        return [*scores, *self._exact_matches(dropped)]

    def truncated(self) -> list[TruncatedPrompts]:
        """Return how many questions are longer than the limit with one of their answers, for each data set."""
        totals = Counter(question.dataset for question in self._questions)
        return [
            TruncatedPrompts(name, self._truncated[name], total, self._max_length) for name, total in totals.items()
        ]

    def _exact_matches(self, dropped: Sequence[int]) -> Iterator[Score]:
        texts = self._generator.answer(list(self._prompts.values()), dropped)
        for index, text in zip(self._prompts, texts, strict=True):
            question = self._questions[index]
            right = math.nan if text is None else float(equals_one_of(text, question.gold))
            yield Score(question.dataset, "exact_match", question.question_id, right)

    def _prepare(self, index: int, question: Question) -> list[Request]:
        """Return the requests of a question, keep its prompt if it is answered, and count it if it is too long."""
        tokenizer, limit = self._model.tokenizer, self._max_length
        pairs = [encode_pair(tokenizer, question.prompt, f" {answer.text}") for answer in question.answers]
        fitted = [fit_request(*pair, limit) for pair in pairs]
        is_cut = any(cut for _, cut in fitted)
        if question.dataset in self._answered:
            ids, prompt_is_cut = fit_prompt(encode_text(tokenizer, question.prompt), ANSWER_TOKENS, limit)
            self._prompts[index] = GenerationPrompt(ids, (END_OF_ANSWER,), ANSWER_TOKENS)
            is_cut |= prompt_is_cut
        self._truncated[question.dataset] += is_cut
        return [request for request, _ in fitted]


def score_question(question: Question, likelihoods: Sequence[Likelihood]) -> list[Score]:
    """Return the scores of a question.

    mc1: whether the first right answer is more likely than every wrong one. mc2: the share of right answers in the
    likelihood of all answers. pairwise: how often a right answer is more likely, per token, than a wrong one. All are
    NaN where a likelihood is not finite.

    Args:
        question: with right and wrong answers.
        likelihoods: one per answer.

    Source: Lin et al., 'TruthfulQA', 2022, for mc1 and mc2.
    """
    right = np.array([answer.right for answer in question.answers])
    total = np.array([likelihood.log_likelihood for likelihood in likelihoods])
    if not np.isfinite(total).all():
        undefined = dict.fromkeys(("mc1", "mc2", "pairwise"), math.nan)
        return [Score(question.dataset, m, question.question_id, value) for m, value in undefined.items()]
    per_token = total / np.array([likelihood.tokens for likelihood in likelihoods])
    share = np.exp(total - total.max())
    above = per_token[right][:, None] - per_token[~right][None, :]
    values = {
        "mc1": float(total[right][0] > total[~right].max()),
        "mc2": float(share[right].sum() / share.sum()),
        "pairwise": float(np.mean((above > 0) + 0.5 * (above == 0))),
    }
    return [Score(question.dataset, metric, question.question_id, value) for metric, value in values.items()]


def validation_score(scores: Sequence[Score]) -> float:
    """Return one value of a model to maximise: mc2, averaged over data sets, or the log-likelihood per token of texts.

    Args:
        scores: item scores of questions, or of texts where there are no questions.
    """
    by_dataset: dict[str, list[float]] = {}
    for score in scores:
        if score.metric == "mc2":
            by_dataset.setdefault(score.dataset, []).append(score.value)
    if by_dataset:
        return float(np.mean([np.mean(by_dataset[name]) for name in sorted(by_dataset)]))
    return -sum(s.value for s in scores) / sum(s.weight for s in scores)
