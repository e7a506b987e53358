"""Sets of questions with right and wrong answers, from known sets, files and the hub."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import pyarrow as pa

from stratoscope.data.distractors import sample_wrong_answers
from stratoscope.data.order import OrderedPrompts, Prompt, order_prompts
from stratoscope.data.prompts import PromptSource, read_rows, row_id
from stratoscope.data.qa import AUTO, FORMATS, Answer, Question, RawQuestion, ask, distinct, find_format
from stratoscope.digest import digest
from stratoscope.errors import InputError

Answers = Literal["given", "gold_and_own", "own"]
"""Whose answers are read: those of the data, the right ones beside the model's own wrong one, or the model's own."""


@dataclass(frozen=True)
class PairSource:
    """Where questions come from."""

    source: str
    """A known set, a local file or folder, or a hub name (owner/name)."""
    format: str = AUTO
    split: str | None = None
    """Of a hub set."""
    subset: str | None = None
    """Configuration of a hub set."""
    revision: str | None = None
    """Of a hub set."""


@dataclass(frozen=True)
class PairChoice:
    """Which questions and answers are kept."""

    answers: Answers = "given"
    limit: int | None = None
    """Questions of each data set."""
    most_answers: int = 8
    """Right ones, and wrong ones, of each question."""
    seed: int = 0
    shots: int = 0
    """Questions of each data set, none of them kept, that stand before each other one with their right answers."""


@dataclass(frozen=True)
class DataSet:
    """What became of the questions of one data set."""

    name: str
    format: str
    kept: int
    read: int
    unusable: int
    """Without a right answer, or where the data's own are read without a wrong one."""
    duplicates: int
    wrong_origin: str
    """Where its wrong answers are from: given, other (another question's right one) or own."""


@dataclass(frozen=True, eq=False)
class QuestionSet:
    """Questions in order, data set by data set."""

    table: pa.Table
    """Columns prompt_id, group and text: id, data set, and the question as `decode` reads it."""
    datasets: tuple[DataSet, ...]
    fingerprint: str

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def with_written(self, texts: Mapping[str, str]) -> "QuestionSet":
        """Return the same with what the model has answered already, by question id."""
        questions = [replace(q, written=texts.get(q.question_id)) for q in self]
        column = self.table.schema.get_field_index("text")
        table = self.table.set_column(column, "text", pa.array([_encode(q) for q in questions], pa.string()))
        return QuestionSet(table, self.datasets, self.fingerprint)

    def __iter__(self) -> Iterator[Question]:
        for row in self.table.to_pylist():
            yield decode(row["prompt_id"], row["group"], row["text"])


def decode(question_id: str, dataset: str, text: str) -> Question:
    """Return a question from its row in a `QuestionSet`."""
    content = json.loads(text)
    answers = tuple(Answer(**answer) for answer in content["answers"])
    return Question(question_id, dataset, content["prompt"], answers, tuple(content["gold"]), content["written"])


def load_pairs(sources: Sequence[PairSource], choice: PairChoice) -> QuestionSet:
    """Read questions, give those without a wrong answer another question's, and put them into a seeded order.

    Args:
        sources: where they are; a file of format pairs may name data sets of its own.
        choice: what is kept.

    Raises:
        InputError: a source is unknown, unreadable, of another format, or no question of it can be used.
    """
    tables: list[pa.Table] = []
    facts: list[DataSet] = []
    fingerprints: list[str] = []
    for source in sources:
        kind, found = _read(source)
        for name, raw in found.items():
            _check_answers(kind, name, choice.answers)
            dataset, ordered = _order(name, kind, raw, choice)
            if any(known.name == name for known in facts):
                raise InputError(f"pairs.source: there are two data sets called {name!r}; rename a file")
            tables.append(ordered.table)
            facts.append(dataset)
            fingerprints.append(ordered.fingerprint)
    return QuestionSet(pa.concat_tables(tables).combine_chunks(), tuple(facts), digest({"datasets": fingerprints}))


def _read(source: PairSource) -> tuple[str, dict[str, list[RawQuestion]]]:
    """Return the format of a source and its questions by data set."""
    rows = read_rows(
        PromptSource(source.source, split=source.split, subset=source.subset, revision=source.revision), "pairs.source"
    )
    first = next(rows, None)
    if first is None:
        raise InputError(f"pairs.source {source.source!r} holds no rows")
    kind = find_format(source.format, first, source.source)
    found: dict[str, list[RawQuestion]] = defaultdict(list)
    try:
        for raw in FORMATS[kind].read(chain([first], rows)):
            found[raw.dataset or Path(source.source).stem].append(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"pairs.source {source.source!r} has a row that is not of format {kind}: {error!r}") from error
    return kind, found


def _check_answers(kind: str, name: str, answers: Answers) -> None:
    if answers != "given" and not FORMATS[kind].short_gold:
        able = ", ".join(other for other, known in FORMATS.items() if known.short_gold)
        raise InputError(
            f"pairs.answers {answers}: the model's answers to {name!r} cannot be compared with the right ones of "
            f"format {kind}, which are sentences; formats with short ones: {able}"
        )


def _order(name: str, kind: str, raw: Sequence[RawQuestion], choice: PairChoice) -> tuple[DataSet, OrderedPrompts]:
    other = choice.answers == "given" and not any(question.wrong for question in raw)
    if other and not FORMATS[kind].gold_only:
        raise InputError(
            f"pairs.source: no question of {name!r} has a wrong answer; add some, or take the model's own with "
            "--pairs.answers gold_and_own"
        )
    known = _with_donors(raw, choice.seed) if other else raw
    shown, known = _set_apart(known, choice)
    questions = [q for q in (_question(name, r, choice, shown) for r in known) if q is not None]
    if not questions:
        what = "one right and one wrong answer" if choice.answers == "given" else "a right answer"
        raise InputError(f"pairs.source: no question of {name!r} has {what}")
    ordered = order_prompts(
        (Prompt(q.question_id, q.dataset, _encode(q)) for q in questions), choice.limit, choice.seed
    )
    wrong_origin = "own" if choice.answers != "given" else "other" if other else "given"
    unusable = len(raw) - len(questions)
    dataset = DataSet(name, kind, len(ordered.table), len(raw), unusable, ordered.num_duplicates, wrong_origin)
    return dataset, ordered


def _set_apart(raw: Sequence[RawQuestion], choice: PairChoice) -> tuple[str, Sequence[RawQuestion]]:
    """Take the questions that are shown with their answers; return them as text, and all others."""
    if not choice.shots:
        return "", raw
    able = [r for r in raw if any(r.right)]
    order = sorted(able, key=lambda r: digest({"seed": choice.seed, "shot": row_id(r.row)}))
    shots = order[: choice.shots]
    taken = {row_id(r.row) for r in shots}
    text = "".join(f"{ask(r)} {next(filter(None, r.right))}\n\n" for r in shots)
    return text, [r for r in raw if row_id(r.row) not in taken]


def _with_donors(raw: Sequence[RawQuestion], seed: int) -> list[RawQuestion]:
    able = [r for r in raw if any(r.right)]
    wrong = sample_wrong_answers([r.question for r in able], [r.right for r in able], seed)
    return [
        replace(r, wrong=(text,) if text else (), wrong_origin="other") for r, text in zip(able, wrong, strict=True)
    ]


def _question(dataset: str, raw: RawQuestion, choice: PairChoice, shown: str) -> Question | None:
    """Return a question, or None where it lacks the answers that are to be read."""
    right, wrong = distinct(raw, choice.most_answers)
    gold = tuple(text for text in raw.right if text)
    if not right or (choice.answers == "given" and not wrong):
        return None
    if raw.wrong_origin == "other" or choice.answers == "gold_and_own":
        right = right[:1]  # beside one wrong answer the other names of the right one would say little
    answers = [Answer(text, True, raw.right_origin) for text in right if choice.answers != "own"]
    answers += [Answer(text, False, raw.wrong_origin) for text in wrong if choice.answers == "given"]
    return Question(row_id(raw.row), dataset, shown + ask(raw), tuple(answers), gold)


def _encode(question: Question) -> str:
    answers = [asdict(answer) for answer in question.answers]
    content = {"prompt": question.prompt, "answers": answers, "gold": question.gold, "written": question.written}
    return json.dumps(content, ensure_ascii=False)
