"""Questions with right and wrong answers: the formats they come in, and the prompts they are asked by."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stratoscope.errors import InputError, suggest

Row = dict[str, Any]
AUTO = "auto"
_END = re.compile(r"[.?!:]$")


@dataclass(frozen=True)
class RawQuestion:
    """A question as its file has it."""

    question: str
    row: Row
    """What it is known by: the id of a question is that of this row."""
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    context: str = ""
    right_origin: str = "gold"
    wrong_origin: str = "given"
    dataset: str | None = None


@dataclass(frozen=True)
class Format:
    """A format of files with questions."""

    columns: tuple[tuple[str, ...], ...]
    """Sets of columns by which it is known; any one will do."""
    read: Callable[[Iterable[Row]], Iterator[RawQuestion]]
    short_gold: bool = False
    """Right answers are short and complete enough for the model's own to be compared with them."""
    gold_only: bool = False
    """There are no wrong answers in it."""

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row has its columns."""
        return any(all(column in row for column in columns) for columns in self.columns)


def _texts(value: Any) -> tuple[str, ...]:
    """Return a list of texts as it is, and a lone text as a list of one."""
    values = [value] if isinstance(value, str) else list(value or [])
    return tuple(str(v).strip() for v in values if v is not None)


def _split(value: Any) -> tuple[str, ...]:
    return _texts(value.split(";") if isinstance(value, str) else value)


def _truthfulqa(rows: Iterable[Row]) -> Iterator[RawQuestion]:
    for row in rows:
        low = {name.lower().replace(" ", "_"): value for name, value in row.items()}
        yield RawQuestion(
            str(low["question"]),
            row,
            (*_texts(low.get("best_answer")), *_split(low["correct_answers"])),
            (*_texts(low.get("best_incorrect_answer")), *_split(low["incorrect_answers"])),
        )


def _sciq(rows: Iterable[Row]) -> Iterator[RawQuestion]:
    for row in rows:
        distractors = tuple(str(row[f"distractor{i}"]).strip() for i in (1, 2, 3))
        yield RawQuestion(str(row["question"]), row, _texts(row["correct_answer"]), distractors)


def _halueval(rows: Iterable[Row]) -> Iterator[RawQuestion]:
    for row in rows:
        yield RawQuestion(
            str(row["question"]),
            row,
            _texts(row["right_answer"]),
            _texts(row["hallucinated_answer"]),
            context=str(row.get("knowledge") or ""),
        )


def _wikiqa(rows: Iterable[Row]) -> Iterator[RawQuestion]:
    """Gather the sentences of each question, in file order."""
    sentences: dict[str, list[tuple[str, bool]]] = {}
    for row in rows:
        low = {name.lower(): value for name, value in row.items()}
        sentence = low["sentence"] if "sentence" in low else low["answer"]
        sentences.setdefault(str(low["question"]), []).append((str(sentence), int(low["label"]) == 1))
    for question, found in sentences.items():
        right, wrong = (tuple(text for text, answers in found if answers == wanted) for wanted in (True, False))
        yield RawQuestion(question, {"question": question}, right, wrong)


def _nq_open(rows: Iterable[Row]) -> Iterator[RawQuestion]:
    for row in rows:
        yield RawQuestion(str(row["question"]), row, _texts(row["answer"]))


def _triviaqa(rows: Iterable[Row]) -> Iterator[RawQuestion]:
    for row in rows:
        answer = row["answer"]
        yield RawQuestion(str(row["question"]), row, (*_texts(answer["value"]), *_texts(answer["aliases"])))


def _pairs(rows: Iterable[Row]) -> Iterator[RawQuestion]:
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
"""In the order in which `auto` tries them."""


def find_format(name: str, row: Mapping[str, Any], source: str) -> str:
    """Return the name of the format of a file, from what was asked for and the file's first row.

    Raises:
        InputError: the format is unknown, or the file has none of its columns.
    """
    if name == AUTO:
        for candidate, known in FORMATS.items():
            if known.fits(row):
                structured = candidate == "nq_open" and isinstance(row["answer"], Mapping)
                return "triviaqa" if structured else candidate
        raise InputError(
            f"pairs.source {source!r} has the columns {', '.join(row)}, which are those of no format; "
            "give question, right and wrong"
        )
    if name not in FORMATS:
        raise InputError(f"pairs.format {name!r} is no format{suggest(name, FORMATS, 'formats')}")
    if not FORMATS[name].fits(row):
        wanted = " or ".join(", ".join(columns) for columns in FORMATS[name].columns)
        raise InputError(
            f"pairs.source {source!r} is not of format {name}: it has the columns {', '.join(row)}, not {wanted}"
        )
    return name


@dataclass(frozen=True)
class Answer:
    """One answer to a question."""

    text: str
    right: bool
    origin: str
    """gold, given (wrong, from the data), other (another question's right one) or own (the model's)."""


@dataclass(frozen=True)
class Question:
    """A question as it is asked, with its answers."""

    question_id: str
    dataset: str
    prompt: str
    answers: tuple[Answer, ...]
    gold: tuple[str, ...] = field(default=())
    """All right answers that are known."""
    written: str | None = None
    """What the model has answered already."""


def ask(raw: RawQuestion) -> str:
    """Return the question as the default prompt asks it: its context, if any, and a mark at its end."""
    text = raw.question.strip()
    question = text if _END.search(text) else f"{text}?"
    return f"{raw.context}\nQuestion: {question}\nAnswer:" if raw.context else f"Question: {question}\nAnswer:"


def distinct(raw: RawQuestion, most: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return at most so many distinct right and wrong answers, none empty; what is right is not wrong as well."""
    seen: set[str] = set()

    def chosen(texts: Iterable[str]) -> tuple[str, ...]:
        kept = []
        for text in texts:
            if text and text.casefold() not in seen:
                seen.add(text.casefold())
                kept.append(text)
        return tuple(kept)

    right = chosen(raw.right)
    return right[:most], chosen(raw.wrong)[:most]
