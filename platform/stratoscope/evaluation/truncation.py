"""Prompts that are longer than a model takes: they lose their beginning, and are counted."""

from collections.abc import Sequence
from dataclasses import dataclass

from stratoscope.evaluation.rows import Request


@dataclass(frozen=True)
class TruncatedPrompts:
    """Number of prompts of a task or data set that were truncated."""

    name: str
    """The task or data set."""
    number: int
    total: int
    """Number of all prompts."""
    max_tokens: int
    """Maximum number of tokens of a prompt and its answer."""


def fit_request(context: Sequence[int], target: Sequence[int], max_tokens: int) -> tuple[Request, bool]:
    """Return a request that a model can take, and whether its context or target was truncated.

    The beginning is cut off, as the harness does it. The target's last token is not read, so it needs no position.

    Args:
        context: token ids of the context.
        target: token ids of the target.
        max_tokens: longest sequence that the model takes.
    """
    room = max(1, max_tokens + 1 - len(target))
    request = Request(tuple(context[-room:]), tuple(target[-max_tokens:]))
    return request, (len(request.context), len(request.target)) != (len(context), len(target))


def fit_prompt(ids: Sequence[int], answer_tokens: int, max_tokens: int) -> tuple[tuple[int, ...], bool]:
    """Return the end of a prompt that leaves room for an answer, and whether it was truncated.

    Args:
        ids: token ids of the prompt.
        answer_tokens: length of the longest answer.
        max_tokens: longest sequence that the model takes.
    """
    room = max(1, max_tokens - answer_tokens)
    return tuple(ids[-room:]), len(ids) > room
