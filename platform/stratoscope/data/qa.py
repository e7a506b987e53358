"""Questions with right and wrong answers: file formats and prompts."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stratoscope.data.printed_lists import parse_printed_list
from stratoscope.data.rows import SourceRow, column_names, text_of
from stratoscope.errors import InputError, suggest

AUTO = "auto"
_QUESTION_MARKS = "?？؟⁇⁈⁉‽﹖፧"  # noqa: RUF001 - marks of other scripts
_OTHER_MARKS = "。．｡！﹗：۔।॥።။។։"  # noqa: RUF001
_CLOSING = r"""\s"'“”‘’«»‹›)\]}）］｝〕】〉》」』＂＇"""  # noqa: RUF001
"""Quotes and brackets, in a character class."""
_END = re.compile(rf"[.!:…]$|[{_QUESTION_MARKS}{_OTHER_MARKS}][{_CLOSING}]*$")
"""End of a question that needs no question mark. Marks of the first class before a quote or bracket usually belong to a
name, as in `Who sings "Help!"`."""


@dataclass(frozen=True)
class RawQuestion:
    """A question as it stands in a file."""

    question: str
    row: Mapping[str, Any]
    """Raw row, whose id identifies the question."""
    right: tuple[str, ...]
    """Right answers; an empty text stands for a missing one."""
    wrong: tuple[str, ...] = ()
    """Wrong answers, likewise."""
    context: str = ""
    right_origin: str = "gold"
    wrong_origin: str = "given"
    dataset: str | None = None
    num_rows: int = 1
    """Number of rows of the file that make up the question."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no question."""
        return not self.question.strip()

    @property
    def num_missing(self) -> int:
        """Number of answers that are missing or blank."""
        return sum(not text for text in (*self.right, *self.wrong))


@dataclass(frozen=True)
class Format:
    """A file format of questions with answers."""

    columns: tuple[tuple[str, ...], ...]
    """Alternative sets of columns that identify the format."""
    read: Callable[[Iterable[SourceRow]], Iterator[RawQuestion]]
    """Reads questions from rows."""
    short_gold: bool = False
    """Whether right answers are short and complete enough to grade the model's own answers by."""
    gold_only: bool = False
    """Whether the format has no wrong answers."""

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row has the columns of this format."""
        return any(all(column in row for column in columns) for columns in self.columns)


def _items(row: SourceRow, value: Any) -> list[Any]:
    """Return the elements of a list, which may be printed into a text, or a single value."""
    if isinstance(value, str):
        printed = parse_printed_list(value, numbers=row.delimited)
        return [value] if printed is None else printed
    return list(value) if isinstance(value, list | tuple) else [value]


def _texts(row: SourceRow, values: Iterable[Any]) -> tuple[str, ...]:
    """Return values, and the elements of lists among them, as stripped texts; a missing value is an empty text."""
    return tuple(text_of(item).strip() for value in values for item in _items(row, value))


def _answers(row: SourceRow, *columns: str) -> tuple[str, ...]:
    """Return the answers in some columns of a row; columns that the row lacks have none."""
    return _texts(row, (row.written[column] for column in columns if column in row.written))


def _question(row: SourceRow) -> str:
    return text_of(row.written.get("question"))


def _context(row: SourceRow, column: str) -> str:
    return text_of(row.written.get(column))


def _lower_names(row: SourceRow) -> SourceRow:
    """Return a row with the names of its columns in lower case and without spaces."""
    written = {name.lower().replace(" ", "_"): value for name, value in row.written.items()}
    if len(written) != len(row.written):
        raise ValueError("two columns have names that differ only in case")
    return SourceRow(row, written, delimited=row.delimited)


def _truthfulqa(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        low = _lower_names(row)
        if "correct_answers" in low.written:
            right = (*_answers(low, "best_answer"), *_split(low, "correct_answers"))
            wrong = (*_answers(low, "best_incorrect_answer"), *_split(low, "incorrect_answers"))
        else:
            right, wrong = _targets(low)
        yield RawQuestion(_question(low), row, right, wrong)


def _split(row: SourceRow, column: str) -> tuple[str, ...]:
    """Return answers that semicolons separate, or that are a list."""
    value = row.written.get(column)
    if isinstance(value, str) and parse_printed_list(value, numbers=row.delimited) is None:
        return _texts(row, value.split(";"))
    return _texts(row, [value])


def _targets(row: SourceRow) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the right and wrong answers of TruthfulQA's multiple-choice form, that of mc1_targets first."""
    right: list[str] = []
    wrong: list[str] = []
    for column in ("mc1_targets", "mc2_targets"):
        targets = row.written.get(column)
        if targets is None:
            continue
        if not isinstance(targets, Mapping):
            raise ValueError(f"{column} is not an object with choices and labels")
        if "choices" in targets:
            labelled = zip(targets["choices"], targets["labels"], strict=True)
        else:
            labelled = zip(targets.keys(), targets.values(), strict=True)
        for choice, label in labelled:
            if label is not None:  # a table has every answer of every question as a column
                (right if _is_right(label) else wrong).append(text_of(choice).strip())
    return tuple(right), tuple(wrong)


def _is_right(label: Any) -> bool:
    """Return whether a label is 1; labels may also be booleans, or texts of numbers or booleans in any case."""
    text = text_of(label).strip()
    try:
        value = float({"true": "1", "false": "0"}.get(text.lower(), text))
    except ValueError:
        value = math.nan
    if value not in (0, 1):
        raise ValueError(f"the label {text!r} is neither 0 nor 1, and neither true nor false")
    return value == 1


def _sciq(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        distractors = _answers(row, "distractor1", "distractor2", "distractor3")
        yield RawQuestion(_question(row), row, _answers(row, "correct_answer"), distractors)


def _halueval(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        yield RawQuestion(
            _question(row),
            row,
            _answers(row, "right_answer"),
            _answers(row, "hallucinated_answer"),
            context=_context(row, "knowledge"),
        )


def _wikiqa(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    """Group the sentences by question, in file order; a sentence without a label is neither right nor wrong."""
    sentences: dict[str, list[tuple[str, bool]]] = {}
    num_rows: dict[str, int] = {}
    for row in rows:
        low = _lower_names(row)
        question = _question(low)
        labelled = sentences.setdefault(question, [])
        num_rows[question] = num_rows.get(question, 0) + 1
        sentence = text_of(low.written["sentence" if "sentence" in low.written else "answer"]).strip()
        label = low.written["label"]
        labelled.append((sentence, _is_right(label)) if text_of(label).strip() else ("", False))
    for question, labelled in sentences.items():
        right, wrong = (tuple(text for text, label in labelled if label == value) for value in (True, False))
        yield RawQuestion(question, {"question": question}, right, wrong, num_rows=num_rows[question])


def _nq_open(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        yield RawQuestion(_question(row), row, _answers(row, "answer"))


def _triviaqa(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        answer = row.written["answer"]
        right = ("",) if answer is None else _texts(row, (answer["value"], answer.get("aliases") or ()))
        yield RawQuestion(_question(row), row, right)


def _pairs(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        yield RawQuestion(
            _question(row),
            row,
            _answers(row, "right"),
            _answers(row, "wrong"),
            context=_context(row, "context"),
            dataset=text_of(row.written.get("dataset")) or None,
        )


FORMATS = {
    "truthfulqa": Format(
        (
            ("Question", "Correct Answers", "Incorrect Answers"),
            ("question", "correct_answers", "incorrect_answers"),
            ("question", "mc1_targets"),
            ("question", "mc2_targets"),
        ),
        _truthfulqa,
    ),
    "sciq": Format((("question", "correct_answer", "distractor1", "distractor2", "distractor3"),), _sciq, True),
    "halueval": Format((("question", "right_answer", "hallucinated_answer"),), _halueval),
    "wikiqa": Format((("Question", "Sentence", "Label"), ("question", "answer", "label")), _wikiqa),
    "pairs": Format((("question", "right", "wrong"), ("question", "right")), _pairs, True),
    "nq_open": Format((("question", "answer"),), _nq_open, short_gold=True, gold_only=True),
    "triviaqa": Format((("question", "answer"),), _triviaqa, short_gold=True, gold_only=True),
}
"""File formats by name, in the order in which `auto` tries them."""


def find_format(name: str, rows: Sequence[SourceRow], source: str) -> str:
    """Return the name of the format of a file.

    Args:
        name: name of the format, or auto.
        rows: first rows of the file, at least one.
        source: name of the file, for messages.

    Raises:
        InputError: the format is unknown, or the rows do not have its columns.
    """
    row = rows[0]
    if name == AUTO:
        for candidate, known in FORMATS.items():
            if known.fits(row):
                structured = any(isinstance(r.written.get("answer"), Mapping) for r in rows)
                return "triviaqa" if candidate == "nq_open" and structured else candidate
        raise InputError(
            f"pairs.source {source!r} has the columns {column_names(row)}, which match no format; "
            "rename them to question, right and wrong"
        )
    if name not in FORMATS:
        raise InputError(f"pairs.format {name!r} is not a format{suggest(name, FORMATS, 'formats')}")
    if not FORMATS[name].fits(row):
        columns = " or ".join(", ".join(names) for names in FORMATS[name].columns)
        raise InputError(
            f"pairs.source {source!r} is not of format {name}: it has the columns {column_names(row)}, not {columns}; "
            "rename them, or set pairs.format"
        )
    return name


@dataclass(frozen=True)
class Answer:
    """One answer to a question."""

    text: str
    right: bool
    origin: str
    """Origin: gold, given (wrong, from the data), other (another question's right answer) or own (the model's)."""


@dataclass(frozen=True)
class Question:
    """A question with its prompt and answers."""

    question_id: str
    dataset: str
    prompt: str
    answers: tuple[Answer, ...]
    gold: tuple[str, ...] = field(default=())
    """All known right answers."""
    written: str | None = None
    """Answer that the model has already generated, or None."""


def question_prompt(raw: RawQuestion) -> str:
    """Return the prompt of a question, with its context, if any, and a question mark."""
    text = raw.question.strip()
    question = text if _END.search(text) else f"{text}?"
    return f"{raw.context}\nQuestion: {question}\nAnswer:" if raw.context else f"Question: {question}\nAnswer:"


def bare_question(prompt: str) -> str:
    """Return the question of a prompt that `question_prompt` wrote, without its context."""
    return prompt.rpartition("Question: ")[2].removesuffix("\nAnswer:")


def distinct_answers(raw: RawQuestion, most: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the distinct right and wrong answers.

    Args:
        raw: the question.
        most: largest number of right, and of wrong, answers.

    Returns:
        Right and wrong answers. No answer is empty, and no right answer is among the wrong ones.
    """
    seen: set[str] = set()

    def unseen(texts: Iterable[str]) -> tuple[str, ...]:
        answers = []
        for text in texts:
            if text and text.casefold() not in seen:
                seen.add(text.casefold())
                answers.append(text)
        return tuple(answers)

    right = unseen(raw.right)
    return right[:most], unseen(raw.wrong)[:most]
