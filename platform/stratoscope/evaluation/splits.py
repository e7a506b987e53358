"""Disjoint parts of a data set: for training, for validation, and held out for evaluation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from stratoscope.data import Question


@dataclass(frozen=True)
class QuestionSplit:
    """Three parts of a data set that share no question."""

    train: tuple[Question, ...] = ()
    validation: tuple[Question, ...] = ()
    held_out: tuple[Question, ...] = ()

    def __add__(self, other: "QuestionSplit") -> "QuestionSplit":
        """Return the parts of two data sets together."""
        return QuestionSplit(
            self.train + other.train, self.validation + other.validation, self.held_out + other.held_out
        )


def split_questions(
    questions: Sequence[Question], used: Collection[str], *, held_out: int, validation: int, train: int | None
) -> QuestionSplit:
    """Divide the questions of a data set; the first questions that may be held out are held out.

    Args:
        questions: the questions in their seeded order.
        used: ids of questions that have influenced the model, such as by the choice of its layers; none is held out.
        held_out: largest number of questions to hold out.
        validation: largest number of questions for validation.
        train: largest number of questions for training; None takes all that remain.
    """
    held = [q for q in questions if q.question_id not in used][:held_out]
    ids = {q.question_id for q in held}
    rest = [q for q in questions if q.question_id not in ids]
    return QuestionSplit(tuple(rest[validation:][:train]), tuple(rest[:validation]), tuple(held))
