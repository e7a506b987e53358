"""Wrong answers sampled from the right answers to other questions of the same type."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

QUESTION_WORDS = ("how many", "how much", "who", "when", "where", "which", "why", "how", "what")
MIN_POOL = 5
"""Number of other questions that a type needs; otherwise a coarser type is used."""


def answer_type(question: str, answer: str) -> tuple[str, str, int]:
    """Return the question word, the kind of the answer, and its number of words, up to four."""
    match = re.search(rf"\b({'|'.join(QUESTION_WORDS)})\b", question.lower())
    if re.fullmatch(r"\d{4}", answer):
        kind = "year"
    elif any(c.isdigit() for c in answer):
        kind = "number"
    else:
        kind = "name" if answer[:1].isupper() else "phrase"
    return match[1] if match else "", kind, min(4, len(answer.split()))


def sample_wrong_answers(questions: Sequence[str], gold: Sequence[Sequence[str]], seed: int) -> list[str | None]:
    """Return for each question the first right answer to another question of the same type.

    The type is the question word, the kind of the answer and its number of words. If fewer than `MIN_POOL` other
    questions share it, the type is kind and number of words, then the kind alone, then any. The choice is seeded and
    does not depend on the order of the questions.

    Args:
        questions: texts of the questions.
        gold: all right answers to each question, at least one, the usual one first.
        seed: seed of the choice.

    Returns:
        One answer per question; None if no other question has a different answer.
    """
    types = [answer_type(q, right[0]) for q, right in zip(questions, gold, strict=True)]
    pools: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, kind in enumerate(types):
        for key in _keys(*kind):
            pools[key].append(index)
    order = [_digest(seed, question) for question in questions]
    sorted_pools = {key: sorted(members, key=lambda i: (order[i], *gold[i])) for key, members in pools.items()}
    return [_sample(index, types[index], sorted_pools, gold, order) for index in range(len(questions))]


def _keys(question_word: str, kind: str, words: int) -> list[tuple[object, ...]]:
    """Return the keys of the pools of a type, from the finest to the coarsest."""
    return [(question_word, kind, words), (kind, words), (kind,), ()]


def _sample(
    index: int,
    kind: tuple[str, str, int],
    pools: dict[tuple[object, ...], list[int]],
    gold: Sequence[Sequence[str]],
    order: Sequence[str],
) -> str | None:
    own = {text.casefold() for text in gold[index]}
    for key in _keys(*kind):
        pool = pools[key]
        if len(pool) <= MIN_POOL and key:
            continue
        start = int(_digest(0, order[index]), 16) % len(pool)
        for step in range(len(pool)):
            answer = gold[pool[(start + step) % len(pool)]][0]
            if answer.casefold() not in own:
                return answer
    return None


def _digest(seed: int, text: str) -> str:
    return hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).hexdigest()
