"""Tokenisation under a policy for chat templates, special tokens and length."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOO_LONG = "too long"
EMPTY = "no tokens"


@dataclass(frozen=True)
class Encoding:
    """Tokenisation policy, which changes activations."""

    chat: bool
    """Whether to wrap each text as a user's message in the model's chat template."""
    bos: Literal["auto", "always", "never"]
    """Begin-of-sequence token: the default of the tokenizer, always one, or no special tokens at all."""
    max_tokens: int
    """Maximum number of tokens of a prompt."""
    too_long: Literal["truncate", "refuse"]
    """Treatment of longer prompts."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one text, or the reason why it has none."""

    ids: Sequence[int]
    truncated: bool = False
    error: str | None = None


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], policy: Encoding) -> list[Encoded]:
    """Encode texts in order."""
    if policy.chat:
        texts = [_as_chat(tokenizer, text) for text in texts]
    # A chat template contains the special tokens.
    special = policy.bos != "never" and not policy.chat
    rows = tokenizer(list(texts), add_special_tokens=special, padding=False, truncation=False)["input_ids"]
    if policy.bos == "always" and not policy.chat:
        bos = tokenizer.bos_token_id
        rows = [row if row[:1] == [bos] else [bos, *row] for row in rows]
    return [_fit(row, policy) for row in rows]


def _as_chat(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    message = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def _fit(ids: list[int], policy: Encoding) -> Encoded:
    if not ids:
        return Encoded((), error=EMPTY)
    if len(ids) <= policy.max_tokens:
        return Encoded(tuple(ids))
    if policy.too_long == "refuse":
        return Encoded((), error=f"{TOO_LONG}: {len(ids)} tokens, prompts.max_tokens is {policy.max_tokens}")
    return Encoded(tuple(ids[: policy.max_tokens]), truncated=True)


def encode_pair(tokenizer: "PreTrainedTokenizerBase", context: str, target: str) -> tuple[list[int], list[int]]:
    """Encode context and target as one text and split it at the end of the context, like lm-evaluation-harness.

    Spaces at the end of the context belong to the target.

    Args:
        tokenizer: tokenizer of the model.
        context: non-empty context.
        target: continuation of the context.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, target = context[:-spaces], context[-spaces:] + target
    context_ids = encode_text(tokenizer, context)
    return context_ids, encode_text(tokenizer, context + target)[len(context_ids) :]


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode a text that may be continued.

    Special tokens that the tokenizer puts before a text are added, unless a chat template has already added the first
    one. Those that it appends, such as the end of the sequence, are not.
    """
    bos = tokenizer.bos_token
    special = not (bos and text.startswith(bos))
    ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    appended = num_appended(tokenizer) if special else 0
    return ids[: len(ids) - appended]


@lru_cache(maxsize=16)
def num_appended(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the number of special tokens that a tokenizer appends to a text."""
    whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    starts = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    return len(whole) - starts[-1] - len(bare) if starts and bare else 0
