"""Greedy generation for tasks whose answers are free text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from stratoscope.models import LoadedModel, bucket, pad, without_layers


@dataclass(frozen=True)
class GenerationPrompt:
    """A prompt that an answer is generated for."""

    ids: tuple[int, ...]
    until: tuple[str, ...]
    """Stop strings; they are not part of the answer."""
    max_tokens: int
    """Most tokens of the answer."""


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
    settings = {(prompt.until, prompt.max_tokens) for prompt in prompts}
    with torch.inference_mode(), without_layers(model, dropped) as pruned:
        for until, max_tokens in sorted(settings):
            members = [i for i, p in enumerate(prompts) if (p.until, p.max_tokens) == (until, max_tokens)]
            lengths = [len(prompts[i].ids) + max_tokens for i in members]
            for indices in bucket(lengths, max_batch_tokens):
                batch = [members[i] for i in indices]
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
        stopping_criteria=StoppingCriteriaList([_StopStrings(tokenizer, until, ids.shape[1])] if until else []),
    )
    texts = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    return [_truncate(text, until) for text in texts]


class _StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Stops answers that contain a stop string.

    The criterion of transformers needs a tokenizer that can spell out its vocabulary, which not every tokenizer can.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str], start: int) -> None:
        self._tokenizer, self._until, self._start = tokenizer, until, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_options: Any) -> Any:  # noqa: ARG002
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :], skip_special_tokens=True)
        done = [any(stop in text for stop in self._until if stop) for text in texts]
        return torch.tensor(done, device=input_ids.device)


def _truncate(text: str, until: Sequence[str]) -> str:
    for stop in until:
        text = text.partition(stop)[0] if stop else text
    return text
