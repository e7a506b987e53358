"""Whether an answer in free text is right: exact match after lm-evaluation-harness's normalisation."""

from collections.abc import Sequence

ARTICLES_AND_STOP = [r"\b(?:the|an|a)\b ?", r"\.$"]
"""What is ignored, as in the shipped tasks nq_open and triviaqa."""


def equals_one_of(answer: str, gold: Sequence[str]) -> bool:
    """Tell whether an answer equals one of the right ones, leaving out case, punctuation and articles."""
    from lm_eval.api.metrics import exact_match_fn

    if not gold:
        return False
    found = exact_match_fn(
        predictions=[answer.strip()] * len(gold),
        references=list(gold),
        regexes_to_ignore=ARTICLES_AND_STOP,
        ignore_case=True,
        ignore_punctuation=True,
    )
    return float(found["exact_match"]) > 0
