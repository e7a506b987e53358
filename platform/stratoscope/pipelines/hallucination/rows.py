"""From a question and its answers to rows of tokens, and the parts of them that are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratoscope.activations import Span
from stratoscope.data import Answer, Question
from stratoscope.models import encode_pair
from stratoscope.pipelines.hallucination.config import ReadPart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class AnswerRow:
    """One answer behind its question."""

    answer: Answer
    ids: tuple[int, ...]
    question_tokens: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.ids) - self.question_tokens

    def span(self, part: ReadPart, row: int) -> Span:
        """Return the tokens of a part, in a row of a batch."""
        if part == "question":
            return Span(row, 0, self.question_tokens)
        return Span(row, self.question_tokens if part == "answer" else len(self.ids) - 1, len(self.ids))


@dataclass(frozen=True)
class Unit:
    """Tokens whose statistics are kept: a part of an answer, or the question itself."""

    prompt_id: str
    question: Question
    right: bool | None
    part: ReadPart


def encode_answers(tokenizer: "PreTrainedTokenizerBase", question: Question) -> list[AnswerRow]:
    """Return a row for each answer that has tokens, the question first."""
    rows = []
    for answer in question.answers:
        before, behind = encode_pair(tokenizer, question.prompt, f" {answer.text}")
        if behind:
            rows.append(AnswerRow(answer, (*before, *behind), len(before)))
    return rows


def read_parts(
    question: Question, rows: Sequence[AnswerRow], parts: Sequence[ReadPart], first_row: int
) -> list[tuple[Unit, Span]]:
    """Return what is read of a question's rows in a batch; what is read of the question itself, once."""
    found: list[tuple[Unit, Span]] = []
    for number, row in enumerate(rows):
        answer_id = f"{question.question_id}-{number}"
        for part in parts:
            if part != "question":
                unit = Unit(answer_id, question, row.answer.right, part)
                found.append((unit, row.span(part, first_row + number)))
    if "question" in parts and rows:
        unit = Unit(question.question_id, question, None, "question")
        found.append((unit, rows[0].span("question", first_row)))
    return found


def group_questions(rows: Sequence[Sequence[AnswerRow]], max_tokens: int) -> list[list[int]]:
    """Group questions into batches under a budget of padded tokens; all answers of a question share a batch.

    Args:
        rows: those of each question; questions without any are left out.
        max_tokens: most tokens of a batch, padding included; a larger question gets a batch of its own.
    """
    longest = [max((len(row.ids) for row in of_question), default=0) for of_question in rows]
    batches: list[list[int]] = []
    width = num_rows = 0
    for index in sorted((i for i, length in enumerate(longest) if length), key=lambda i: (-longest[i], i)):
        if batches and (num_rows + len(rows[index])) * width <= max_tokens:
            batches[-1].append(index)
            num_rows += len(rows[index])
        else:
            batches.append([index])
            width, num_rows = longest[index], len(rows[index])
    return batches
