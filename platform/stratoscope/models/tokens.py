"""From text to token ids, under a stated policy for templates, special tokens and length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOO_LONG = "too long"
EMPTY = "no tokens"


@dataclass(frozen=True)
class Encoding:
    """How texts become tokens; all of it changes activations."""

    chat: bool
    """Wrap each text as a user's message in the model's chat template."""
    bos: Literal["auto", "always", "never"]
    """Begin-of-sequence token: as the tokenizer does, always one, or no special tokens at all."""
    max_tokens: int
    """Longest prompt in tokens."""
    too_long: Literal["truncate", "refuse"]
    """What happens to a longer one."""


@dataclass(frozen=True)
class Encoded:
    """The outcome for one text: its ids, or why there are none."""

    ids: tuple[int, ...]
    truncated: bool = False
    error: str | None = None


def encode(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], policy: Encoding) -> list[Encoded]:
    """Encode texts, one outcome each, in order."""
    if policy.chat:
        texts = [_as_chat(tokenizer, text) for text in texts]
    # A chat template writes the special tokens itself.
    special = policy.bos != "never" and not policy.chat
    rows = tokenizer(list(texts), add_special_tokens=special, padding=False, truncation=False)["input_ids"]
    if policy.bos == "always" and not policy.chat:
        bos = tokenizer.bos_token_id
        rows = [row if row[:1] == [bos] or bos is None else [bos, *row] for row in rows]
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
    """Encode context and target as one text and cut it where the context ends, as lm-evaluation-harness does.

    Spaces at the end of the context go to the target.

    Args:
        tokenizer: of the model.
        context: not empty.
        target: what stands behind it.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, target = context[:-spaces], context[-spaces:] + target
    before, whole = encode_text(tokenizer, context), encode_text(tokenizer, context + target)
    return before, whole[len(before) :]


def encode_text(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Encode a text with the tokenizer's special tokens, unless a chat template has written the first already."""
    bos = tokenizer.bos_token
    special = not (bos and text.startswith(bos))
    ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    return ids
