"""Questions with right and wrong answers: file formats and prompts."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stratoscope.data.files import SourceRow
from stratoscope.errors import InputError, suggest

AUTO = "auto"
_END = re.compile(r"[.?!:]$")


@dataclass(frozen=True)
class RawQuestion:
    """A question as it stands in a file."""

    question: str
    row: SourceRow
    """Raw row, whose id identifies the question."""
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    context: str = ""
    right_origin: str = "gold"
    wrong_origin: str = "given"
    dataset: str | None = None


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


def _texts(value: Any) -> tuple[str, ...]:
    """Return the stripped texts of a list, or of a single text."""
    values = [value] if isinstance(value, str) else list(value or [])
    return tuple(str(v).strip() for v in values if v is not None)


def _split(value: Any) -> tuple[str, ...]:
    return _texts(value.split(";") if isinstance(value, str) else value)


def _truthfulqa(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        low = {name.lower().replace(" ", "_"): value for name, value in row.items()}
        yield RawQuestion(
            str(low["question"]),
            row,
            (*_texts(low.get("best_answer")), *_split(low["correct_answers"])),
            (*_texts(low.get("best_incorrect_answer")), *_split(low["incorrect_answers"])),
        )


def _sciq(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        distractors = tuple(str(row[f"distractor{i}"]).strip() for i in (1, 2, 3))
        yield RawQuestion(str(row["question"]), row, _texts(row["correct_answer"]), distractors)


def _halueval(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        yield RawQuestion(
            str(row["question"]),
            row,
            _texts(row["right_answer"]),
            _texts(row["hallucinated_answer"]),
            context=str(row.get("knowledge") or ""),
        )


def _wikiqa(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    """Group the sentences by question, in file order."""
    sentences: dict[str, list[tuple[str, bool]]] = {}
    for row in rows:
        low = {name.lower(): value for name, value in row.items()}
        sentence = low["sentence"] if "sentence" in low else low["answer"]
        sentences.setdefault(str(low["question"]), []).append((str(sentence), int(low["label"]) == 1))
    for question, labelled in sentences.items():
        right, wrong = (tuple(text for text, label in labelled if label == value) for value in (True, False))
        yield RawQuestion(question, {"question": question}, right, wrong)


def _nq_open(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        yield RawQuestion(str(row["question"]), row, _texts(row["answer"]))


def _triviaqa(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        answer = row["answer"]
        yield RawQuestion(str(row["question"]), row, (*_texts(answer["value"]), *_texts(answer["aliases"])))


def _pairs(rows: Iterable[SourceRow]) -> Iterator[RawQuestion]:
    for row in rows:
        yield RawQuestion(
            str(row["question"]),
            row,
            _texts(row["right"]),
            _texts(row.get("wrong")),
            context=str(row.get("context") or ""),
            dataset=str(row["dataset"]) if row.get("dataset") else None,
        )


FORMATS = {
    "truthfulqa": Format(
        (
            ("Question", "Correct Answers", "Incorrect Answers"),
            ("question", "correct_answers", "incorrect_answers"),
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


def find_format(name: str, row: Mapping[str, Any], source: str) -> str:
    """Return the name of the format of a file.

    Args:
        name: name of the format, or auto.
        row: first row of the file.
        source: name of the file, for messages.

    Raises:
        InputError: the format is unknown, or the row does not have its columns.
    """
    if name == AUTO:
        for candidate, known in FORMATS.items():
            if known.fits(row):
                structured = candidate == "nq_open" and isinstance(row["answer"], Mapping)
                return "triviaqa" if structured else candidate
        raise InputError(
            f"pairs.source {source!r} has the columns {', '.join(row)}, which match no format; "
            "rename them to question, right and wrong"
        )
    if name not in FORMATS:
        raise InputError(f"pairs.format {name!r} is not a format{suggest(name, FORMATS, 'formats')}")
    if not FORMATS[name].fits(row):
        columns = " or ".join(", ".join(names) for names in FORMATS[name].columns)
        raise InputError(
            f"pairs.source {source!r} is not of format {name}: it has the columns {', '.join(row)}, not {columns}; "
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


def distinct_answers(raw: RawQuestion, most: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the distinct right and wrong answers.

    Args:
        raw: the question.
        most: largest number of right, and of wrong, answers.

    Returns:
        Right and wrong answers. None is empty, and a right answer is not among the wrong ones.
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
