"""Wrong answers of the right kind: what answers another question of the same type."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

ASKED = ("how many", "how much", "who", "when", "where", "which", "why", "how", "what")
FEWEST_DONORS = 5
"""Questions of a type among which there is a choice."""


def answer_type(question: str, answer: str) -> tuple[str, str, int]:
    """Return what is asked for, what kind of thing the answer is, and its words up to four."""
    low = question.lower()
    found = re.search(rf"\b({'|'.join(ASKED)})\b", low)
    asked = found[1] if found else ""
    if re.fullmatch(r"\d{4}", answer):
        kind = "year"
    elif any(c.isdigit() for c in answer):
        kind = "number"
    else:
        kind = "name" if answer[:1].isupper() else "phrase"
    return asked, kind, min(4, len(answer.split()))


def sample_wrong_answers(questions: Sequence[str], gold: Sequence[Sequence[str]], seed: int) -> list[str | None]:
    """Return for each question the first right answer to another question of the same type.

    Of the type are the word that asks, the kind of thing that answers, and its number of words; where fewer than
    `FEWEST_DONORS` questions share it, the last two, the kind, or nothing at all. The choice is seeded, and does not
    depend on the order of the questions.

    Args:
        questions: their texts.
        gold: all right answers to each, the usual one first; one at least.
        seed: of the choice.

    Returns:
        One answer each, None where no other question has another one.
    """
    types = [answer_type(q, right[0]) for q, right in zip(questions, gold, strict=True)]
    pools: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, (asked, kind, words) in enumerate(types):
        for key in _keys(asked, kind, words):
            pools[key].append(index)
    order = [_digest(seed, question) for question in questions]
    sorted_pools = {key: sorted(members, key=lambda i: order[i]) for key, members in pools.items()}
    return [_donor(index, types[index], sorted_pools, gold, order) for index in range(len(questions))]


def _keys(asked: str, kind: str, words: int) -> list[tuple[object, ...]]:
    return [(asked, kind, words), (kind, words), (kind,), ()]


def _donor(
    index: int,
    kind: tuple[str, str, int],
    pools: dict[tuple[object, ...], list[int]],
    gold: Sequence[Sequence[str]],
    order: Sequence[str],
) -> str | None:
    own = {text.casefold() for text in gold[index]}
    for key in _keys(*kind):
        pool = pools[key]
        if len(pool) <= FEWEST_DONORS and key:
            continue
        start = int(_digest(0, order[index]), 16) % len(pool)
        for step in range(len(pool)):
            answer = gold[pool[(start + step) % len(pool)]][0]
            if answer.casefold() not in own:
                return answer
    return None


def _digest(seed: int, text: str) -> str:
    return hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).hexdigest()
