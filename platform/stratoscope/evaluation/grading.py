"""Grading of answers in free text: exact match after the normalisation of lm-evaluation-harness."""

import re
from collections.abc import Sequence

ARTICLES_AND_STOP = [r"(?i:\b(?:the|an|a)\b ?)", r"\.$"]
"""Patterns that are ignored, as in the shipped tasks nq_open and triviaqa. The harness matches them before it ignores
case."""


def equals_one_of(answer: str, gold: Sequence[str]) -> bool:
    """Return whether an answer with a word equals one of the right ones, ignoring case, punctuation and articles."""
    from lm_eval.api.metrics import exact_match_fn

    if not gold or not has_word(answer):
        return False
    result = exact_match_fn(
        predictions=[answer.strip()] * len(gold),
        references=list(gold),
        regexes_to_ignore=ARTICLES_AND_STOP,
        ignore_case=True,
        ignore_punctuation=True,
    )
    return float(result["exact_match"]) > 0


def has_word(answer: str) -> bool:
    """Return whether an answer has a letter or a digit besides articles; without, it is neither right nor wrong."""
    return any(map(str.isalnum, re.sub("|".join(ARTICLES_AND_STOP), "", answer.strip())))
