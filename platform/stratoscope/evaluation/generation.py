"""Greedy generation for tasks whose answers are free text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from stratoscope.models import LoadedModel, bucket, pad, without_layers


@dataclass(frozen=True)
class GenerationPrompt:
    """What an answer is generated for."""

    ids: tuple[int, ...]
    until: tuple[str, ...]
    """Texts that end the answer and are not part of it."""
    max_tokens: int
    """Longest answer."""


def generate(
    model: LoadedModel, prompts: Sequence[GenerationPrompt], dropped: Sequence[int], max_batch_tokens: int
) -> list[str]:
    """Return the greedy answer to each prompt, in order, from a model without some of its layers.

    Args:
        model: with its causal head.
        prompts: in any order.
        dropped: layers to leave out.
        max_batch_tokens: most tokens of a batch of prompts and answers together.
    """
    answers = [""] * len(prompts)
    kinds = {(prompt.until, prompt.max_tokens) for prompt in prompts}
    with torch.inference_mode(), without_layers(model, dropped) as pruned:
        for until, max_tokens in sorted(kinds):
            members = [i for i, p in enumerate(prompts) if (p.until, p.max_tokens) == (until, max_tokens)]
            lengths = [len(prompts[i].ids) + max_tokens for i in members]
            for chosen in bucket(lengths, max_batch_tokens):
                batch = [members[i] for i in chosen]
                texts = _generate_batch(pruned, [prompts[i].ids for i in batch], until, max_tokens)
                for index, text in zip(batch, texts, strict=True):
                    answers[index] = text
    return answers


def _generate_batch(
    model: LoadedModel, rows: Sequence[Sequence[int]], until: tuple[str, ...], max_tokens: int
) -> list[str]:
    tokenizer, network = model.tokenizer, model.network
    filler = int(tokenizer.pad_token_id or 0)
    ids, mask = pad([row[::-1] for row in rows], filler)
    ids, mask = ids.flip(1).to(model.device), mask.flip(1).to(model.device)
    output = network.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=filler,
        use_cache=True,
        stopping_criteria=StoppingCriteriaList([_Ended(tokenizer, until, ids.shape[1])] if until else []),
    )
    texts = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    return [_cut(text, until) for text in texts]


class _Ended(StoppingCriteria):  # type: ignore[misc]
    """Tells which answers hold a text that ends them.

    transformers' own criterion for that wants to spell words, which not every tokenizer can.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str], start: int) -> None:
        self._tokenizer, self._until, self._start = tokenizer, until, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_given: Any) -> Any:  # noqa: ARG002
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :], skip_special_tokens=True)
        ended = [any(end in text for end in self._until if end) for text in texts]
        return torch.tensor(ended, device=input_ids.device)


def _cut(text: str, until: Sequence[str]) -> str:
    for end in until:
        text = text.partition(end)[0] if end else text
    return text
