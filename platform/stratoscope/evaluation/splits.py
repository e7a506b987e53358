"""Disjoint parts of a data set: for training, for validation, and held out for evaluation."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from stratoscope.data import Question, bare_question

MIN_WORDS = 4
"""Fewest words of a question that is searched for in texts; shorter ones, such as 'who is he?', are in many texts."""


@dataclass(frozen=True)
class QuestionSplit:
    """Three parts of data sets that share no question."""

    train: tuple[Question, ...] = ()
    validation: tuple[Question, ...] = ()
    held_out: tuple[Question, ...] = ()


@dataclass(frozen=True)
class SplitSizes:
    """Largest numbers of questions of a data set's parts."""

    held_out: int
    validation: int
    train: int | None
    """None takes all questions that remain."""


def split_questions(
    questions: Mapping[str, Sequence[Question]], used: Collection[str], sizes: Mapping[str, SplitSizes]
) -> QuestionSplit:
    """Divide the questions of data sets. No part has a row or a prompt of another part, whatever their data sets.

    The held-out parts of all data sets are chosen first, then those for validation, and what remains is for training.

    Args:
        questions: the questions of each data set in their seeded order.
        used: ids of questions that have influenced the model, such as by the choice of its layers; neither they nor
            questions of the same prompt are held out.
        sizes: sizes of the parts of each data set.
    """
    seen = _Seen(set(used), {q.prompt for own in questions.values() for q in own if q.question_id in used})
    held_out = {name: seen.others(own)[: sizes[name].held_out] for name, own in questions.items()}
    taken = _Seen.of(held_out)
    validation = {name: taken.others(own)[: sizes[name].validation] for name, own in questions.items()}
    taken |= _Seen.of(validation)
    train = {name: taken.others(own)[: sizes[name].train] for name, own in questions.items()}
    return QuestionSplit(*(tuple(q for own in part.values() for q in own) for part in (train, validation, held_out)))


class Wordings:
    """Finds questions in texts by their words, whatever their case, punctuation and spaces.

    Questions of fewer than `MIN_WORDS` words are not searched for, nor are those of scripts without spaces.

    Args:
        questions: the questions to find.
    """

    def __init__(self, questions: Iterable[Question]) -> None:
        self._by_beginning: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
        for question in questions:
            words = _words(bare_question(question.prompt))
            if len(words) >= MIN_WORDS:
                self._by_beginning[words[:MIN_WORDS]].add(words)

    def appear_in(self, text: str) -> bool:
        """Return whether a text holds all words of one of the questions, in a row."""
        words = _words(text)
        return any(
            words[start : start + len(question)] == question
            for start in range(len(words) - MIN_WORDS + 1)
            for question in self._by_beginning.get(words[start : start + MIN_WORDS], ())
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


@dataclass(frozen=True)
class _Seen:
    """The rows and prompts of some questions. Several rows of a file may ask the same question."""

    ids: set[str]
    prompts: set[str]

    @classmethod
    def of(cls, parts: Mapping[str, Sequence[Question]]) -> "_Seen":
        """Return the rows and prompts of the parts of data sets."""
        questions = [question for own in parts.values() for question in own]
        return cls({q.question_id for q in questions}, {q.prompt for q in questions})

    def __or__(self, other: "_Seen") -> "_Seen":
        return _Seen(self.ids | other.ids, self.prompts | other.prompts)

    def others(self, questions: Sequence[Question]) -> list[Question]:
        """Return the questions that have neither a row nor a prompt of these."""
        return [q for q in questions if q.question_id not in self.ids and q.prompt not in self.prompts]
