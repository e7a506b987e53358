"""Token rows of a question's answers, and the parts of them that are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratoscope.activations import Span
from stratoscope.data import Answer, Question
from stratoscope.models import encode_pair, encode_text
from stratoscope.scoring import ReadPart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedAnswer:
    """One answer after its question, as tokens."""

    answer: Answer
    ids: tuple[int, ...]
    question_tokens: int

    @property
    def num_tokens(self) -> int:
        """Number of tokens of the answer."""
        return len(self.ids) - self.question_tokens

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Token ids of the answer."""
        return self.ids[self.question_tokens :]

    def span(self, part: ReadPart, row: int) -> Span:
        """Return the span of a part in a row of a batch."""
        if part == "question":
            return Span(row, 0, self.question_tokens)
        return Span(row, self.question_tokens if part == "answer" else len(self.ids) - 1, len(self.ids))


@dataclass(frozen=True)
class EncodedQuestion:
    """A question as tokens."""

    prompt: tuple[int, ...]
    """Token ids of the question alone."""
    rows: tuple[EncodedAnswer, ...]
    """The question with each answer that has tokens."""


@dataclass(frozen=True)
class ReadUnit:
    """A part of an answer, or a question itself, whose statistics are stored."""

    prompt_id: str
    question: Question
    right: bool | None
    part: ReadPart


def encode_question(tokenizer: "PreTrainedTokenizerBase", question: Question) -> EncodedQuestion:
    """Encode a question alone, and with each of its answers that has tokens."""
    rows = [encode_answer(tokenizer, question, answer) for answer in question.answers]
    return EncodedQuestion(
        tuple(encode_text(tokenizer, question.prompt)), tuple(row for row in rows if row is not None)
    )


def encode_answer(tokenizer: "PreTrainedTokenizerBase", question: Question, answer: Answer) -> EncodedAnswer | None:
    """Return the question with an answer, or None if the answer has no tokens."""
    before, after = encode_pair(tokenizer, question.prompt, f" {answer.text}")
    return EncodedAnswer(answer, (*before, *after), len(before)) if after else None


def read_parts(
    question: Question, rows: Sequence[EncodedAnswer], parts: Sequence[ReadPart], first_row: int
) -> list[tuple[ReadUnit, Span]]:
    """Return the units of a question's rows in a batch. The question itself is one unit, if it is to be read."""
    units: list[tuple[ReadUnit, Span]] = []
    for number, row in enumerate(rows):
        answer_id = f"{question.question_id}-{number}"
        for part in parts:
            if part != "question":
                unit = ReadUnit(answer_id, question, row.answer.right, part)
                units.append((unit, row.span(part, first_row + number)))
    if "question" in parts and rows:
        unit = ReadUnit(question.question_id, question, None, "question")
        units.append((unit, rows[0].span("question", first_row)))
    return units


def group_questions(rows: Sequence[Sequence[EncodedAnswer]], max_tokens: int, max_rows: int) -> list[list[int]]:
    """Group questions into batches of limited size; all answers of a question share a batch.

    Args:
        rows: the rows of each question; questions without rows are left out.
        max_tokens: maximum tokens of a batch, padding included; a larger question gets its own batch.
        max_rows: maximum answers of a batch, which bounds the memory of their statistics.
    """
    longest = [max((len(row.ids) for row in answers), default=0) for answers in rows]
    batches: list[list[int]] = []
    width = num_rows = 0
    for index in sorted((i for i, length in enumerate(longest) if length), key=lambda i: (-longest[i], i)):
        rows_with = num_rows + len(rows[index])
        if batches and rows_with * width <= max_tokens and rows_with <= max_rows:
            batches[-1].append(index)
            num_rows = rows_with
        else:
            batches.append([index])
            width, num_rows = longest[index], len(rows[index])
    return batches
