"""Sets of questions with right and wrong answers, from known sets, files and the hub."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from typing import Literal

import pyarrow as pa

from stratoscope.data.delimited import Quoting
from stratoscope.data.distractors import sample_wrong_answers
from stratoscope.data.files import source_stem
from stratoscope.data.order import OrderedPrompts, Prompt, order_prompts
from stratoscope.data.prompts import PromptSource, read_rows, row_id
from stratoscope.data.qa import (
    AUTO,
    FORMATS,
    Answer,
    Question,
    RawQuestion,
    distinct_answers,
    find_format,
    question_prompt,
)
from stratoscope.data.rows import SourceRow
from stratoscope.digest import digest
from stratoscope.errors import InputError, type_and_message

FORMAT_ROWS = 100
"""Number of first rows from which the format of a file is recognised."""
Answers = Literal["given", "gold_and_own", "own"]
"""Answers that are read: all from the data, the right ones and the model's own wrong one, or only the model's own."""


@dataclass(frozen=True)
class PairSource:
    """Source of questions with answers."""

    source: str
    """A known set, a local file or folder, or a hub name (owner/name)."""
    format: str = AUTO
    """Name of a format in `FORMATS`, or auto."""
    split: str | None = None
    """Split of a hub data set."""
    subset: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Revision of a hub data set."""
    encoding: str | None = None
    """Encoding of text files; None detects UTF-8 and UTF-16, and refuses others."""
    quoting: Quoting = "auto"
    """Whether quotes enclose fields of CSV and TSV files."""


@dataclass(frozen=True)
class PairChoice:
    """Selection of questions and answers."""

    answers: Answers = "given"
    limit: int | None = None
    """Largest number of questions of each data set; None keeps all."""
    most_answers: int = 8
    """Largest number of right, and of wrong, answers to each question."""
    seed: int = 0
    """Seed of the order, of sampled wrong answers and of shots."""
    shots: int = 0
    """Number of few-shot questions of each data set, which precede every other question and are not read themselves."""


@dataclass(frozen=True)
class DataSet:
    """Numbers of questions of one data set; `read` is the sum of the kept ones and of those left out."""

    name: str
    format: str
    rows: int
    """Number of rows in the source; a question may have several."""
    read: int
    """Number of questions in the source, blank ones included."""
    kept: int
    """Number of questions that are read by the model."""
    empty: int
    """Number of rows without a question."""
    unusable: int
    """Number of questions without a right answer, or without a wrong one if the answers of the data are read."""
    duplicates: int
    shots: int
    """Number of questions that precede every other question as examples."""
    over_limit: int
    """Number of questions that the limit leaves out."""
    missing_answers: int
    """Number of missing or blank answers, which are left out."""
    wrong_origin: str
    """Origin of the wrong answers: given, other (another question's right answer) or own."""


@dataclass(frozen=True, eq=False)
class QuestionSet:
    """Questions in order, data set by data set."""

    table: pa.Table
    """Columns prompt_id, group and text: id, data set, and the question as JSON (see `decode`)."""
    datasets: tuple[DataSet, ...]
    fingerprint: str

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def with_written(self, texts: Sequence[str | None]) -> "QuestionSet":
        """Return the questions with the answers that the model has already generated, in order; None for no answer."""
        questions = [replace(q, written=text) for q, text in zip(self, texts, strict=True)]
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
    """Read questions, sample wrong answers for data sets without any, and put the questions into a seeded order.

    Args:
        sources: sources of questions; a file of the format pairs may name several data sets.
        choice: selection of questions and answers.

    Raises:
        InputError: a source is unknown, unreadable or of another format, or has no usable question.
    """
    tables: list[pa.Table] = []
    facts: list[DataSet] = []
    fingerprints: list[str] = []
    for source in sources:
        kind, datasets = _read(source)
        for name, raw in datasets.items():
            _check_answers(kind, name, choice.answers)
            dataset, ordered = _order(name, kind, raw, choice)
            if any(known.name == name for known in facts):
                raise InputError(f"pairs.source: two data sets are named {name!r}; rename a file")
            tables.append(ordered.table)
            facts.append(dataset)
            fingerprints.append(ordered.fingerprint)
    return QuestionSet(pa.concat_tables(tables).combine_chunks(), tuple(facts), digest({"datasets": fingerprints}))


def _read(source: PairSource) -> tuple[str, dict[str, list[RawQuestion]]]:
    """Return the format of a source and its questions by data set."""
    rows = read_rows(
        PromptSource(
            source.source,
            split=source.split,
            subset=source.subset,
            revision=source.revision,
            encoding=source.encoding,
            quoting=source.quoting,
        ),
        "pairs.source",
    )
    first = list(islice(rows, FORMAT_ROWS))
    if not first:
        raise InputError(f"pairs.source {source.source!r} has no rows; name a file or set with at least one")
    kind = find_format(source.format, first, source.source)
    datasets: dict[str, list[RawQuestion]] = defaultdict(list)
    numbered = _Numbered(chain(first, rows))
    try:
        for raw in FORMATS[kind].read(numbered):
            datasets[raw.dataset or source_stem(source.source)].append(raw)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"pairs.source {source.source!r}: row {numbered.number:,} is not of format {kind}: "
            f"{type_and_message(error)[:200]}; fix the row, or set pairs.format"
        ) from error
    return kind, datasets


class _Numbered:
    """Rows that are counted while they are read."""

    def __init__(self, rows: Iterable[SourceRow]) -> None:
        self._rows = rows
        self.number = 0

    def __iter__(self) -> Iterator[SourceRow]:
        for self.number, row in enumerate(self._rows, start=1):  # noqa: B020 - the number is that of the current row
            yield row


def _check_answers(kind: str, name: str, answers: Answers) -> None:
    if answers != "given" and not FORMATS[kind].short_gold:
        short = ", ".join(other for other, known in FORMATS.items() if known.short_gold)
        raise InputError(
            f"pairs.answers {answers}: the model's answers to {name!r} cannot be compared with right answers of format "
            f"{kind}, which are sentences; use a format with short ones ({short}) or --pairs.answers given"
        )


def _order(name: str, kind: str, raw: Sequence[RawQuestion], choice: PairChoice) -> tuple[DataSet, OrderedPrompts]:
    asked = [question for question in raw if not question.is_empty]
    sampled = choice.answers == "given" and not any(any(question.wrong) for question in asked)
    if asked and sampled and not FORMATS[kind].gold_only:
        raise InputError(
            f"pairs.source: no question of {name!r} has a wrong answer; add wrong answers, or use the model's own with "
            "--pairs.answers gold_and_own"
        )
    complete = _with_wrong_answers(asked, choice.seed) if sampled else asked
    prefix, rest = _split_shots(complete, choice)
    questions = [q for q in (_question(name, r, choice, prefix) for r in rest) if q is not None]
    if not questions:
        what = "one right and one wrong answer" if choice.answers == "given" else "a right answer"
        raise InputError(f"pairs.source: no question of {name!r} has {what}; add answers, or choose another set")
    ordered = order_prompts(
        (Prompt(q.question_id, q.dataset, _encode(q)) for q in questions), choice.limit, choice.seed
    )
    shots = len(complete) - len(rest)
    return DataSet(
        name=name,
        format=kind,
        rows=sum(question.num_rows for question in raw),
        read=len(raw),
        kept=len(ordered.table),
        empty=len(raw) - len(asked),
        unusable=len(asked) - shots - len(questions),
        duplicates=ordered.num_duplicates,
        shots=shots,
        over_limit=ordered.num_over_limit,
        missing_answers=sum(question.num_missing for question in asked),
        wrong_origin="own" if choice.answers != "given" else "other" if sampled else "given",
    ), ordered


def _split_shots(raw: Sequence[RawQuestion], choice: PairChoice) -> tuple[str, Sequence[RawQuestion]]:
    """Return the few-shot questions with their answers as text, and all other questions."""
    if not choice.shots:
        return "", raw
    answerable = [r for r in raw if any(r.right)]
    # Rows that are equal as values may differ as texts, such as 007 and 7.
    order = sorted(
        answerable, key=lambda r: (digest({"seed": choice.seed, "shot": row_id(r.row)}), r.question, r.right)
    )
    shots = order[: choice.shots]
    shot_ids = {row_id(r.row) for r in shots}
    text = "".join(f"{question_prompt(r)} {next(filter(None, r.right))}\n\n" for r in shots)
    return text, [r for r in raw if row_id(r.row) not in shot_ids]


def _with_wrong_answers(raw: Sequence[RawQuestion], seed: int) -> list[RawQuestion]:
    """Return the questions that have a right answer, each with a right answer to another question as a wrong one."""
    answerable = [r for r in raw if any(r.right)]
    gold = [tuple(filter(None, r.right)) for r in answerable]
    wrong = sample_wrong_answers([r.question for r in answerable], gold, seed)
    return [
        replace(r, wrong=(text,) if text else (), wrong_origin="other")
        for r, text in zip(answerable, wrong, strict=True)
    ]


def _question(dataset: str, raw: RawQuestion, choice: PairChoice, prefix: str) -> Question | None:
    """Return a question, or None if it lacks the answers that are read."""
    right, wrong = distinct_answers(raw, choice.most_answers)
    gold = tuple(text for text in raw.right if text)
    if not right or (choice.answers == "given" and not wrong):
        return None
    if raw.wrong_origin == "other" or choice.answers == "gold_and_own":
        right = right[:1]  # synonyms of the right answer add little beside one wrong answer
    answers = [Answer(text, True, raw.right_origin) for text in right if choice.answers != "own"]
    answers += [Answer(text, False, raw.wrong_origin) for text in wrong if choice.answers == "given"]
    return Question(row_id(raw.row), dataset, prefix + question_prompt(raw), tuple(answers), gold)


def _encode(question: Question) -> str:
    answers = [asdict(answer) for answer in question.answers]
    content = {"prompt": question.prompt, "answers": answers, "gold": question.gold, "written": question.written}
    return json.dumps(content, ensure_ascii=False)
