"""Grading of answers in free text: exact match, as it stands or after the normalisation of lm-evaluation-harness."""

import re
import string
from collections.abc import Sequence
from typing import Any

ARTICLES_AND_STOP = [r"(?i:\b(?:the|an|a)\b ?)", r"\.$"]
"""Patterns that are ignored. The harness matches them before it ignores case."""
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def equals_one_of(answer: str, gold: Sequence[str]) -> bool:
    """Return whether an answer equals one of the right ones, ignoring case, punctuation and articles.

    Right answers that consist of nothing else, such as 'A+', ignore case and a full stop at the end alone.
    """
    answer = answer.strip()
    if _plain(answer) and _plain(answer) in map(_plain, gold):
        return True
    right = [text for text in map(_normalised, gold) if text.strip()]
    return _normalised(answer) in right


def exact_match(predictions: Sequence[str], references: Sequence[str], **_options: Any) -> dict[str, float]:
    """Return the share of answers that equal their right ones; the metric of the shipped tasks nq_open and triviaqa."""
    pairs = list(zip(predictions, references, strict=True))
    hits = sum(equals_one_of(answer, [right]) for answer, right in pairs)
    return {"exact_match": hits / max(1, len(pairs))}


def has_word(answer: str) -> bool:
    """Return whether an answer has a letter or a digit besides articles; without, it is no wrong answer."""
    return any(map(str.isalnum, re.sub("|".join(ARTICLES_AND_STOP), "", answer.strip())))


def _plain(text: str) -> str:
    """Return a text without differences of case and without a full stop at its end."""
    return text.strip().removesuffix(".").casefold()


def _normalised(text: str) -> str:
    """Return a text as the harness compares it, `lm_eval.api.metrics.exact_match_hf_evaluate`."""
    for pattern in ARTICLES_AND_STOP:
        text = re.sub(pattern, "", text)
    return text.lower().translate(_PUNCTUATION)
