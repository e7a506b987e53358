"""Texts that a model generates by sampling, from random first tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stratoscope.evaluation.generation import end_tokens, plain_generation
from stratoscope.models import LoadedModel, encode_text

CPU_TOKENS, GPU_TOKENS = 8192, 131_072
"""Tokens of a batch of texts, by device."""


@dataclass(frozen=True)
class TextSampling:
    """Number, length and randomness of generated texts."""

    number: int
    max_tokens: int
    """Longest text, in tokens, the first one included."""
    temperature: float = 1.0
    """Temperature; 1 samples from the model's own distribution."""
    seed: int = 0


def sample_texts(model: LoadedModel, sampling: TextSampling) -> list[tuple[int, ...]]:
    """Generate texts, each from a random token, up to the end of the sequence.

    Nothing of the model's generation configuration applies but its special tokens. Each batch is seeded anew, so
    that on one device equal settings generate equal texts. The state of torch's random numbers does not change.

    Args:
        model: with its causal head.
        sampling: number, length and randomness of the texts.

    Returns:
        Token ids of the texts, without the end of the sequence. Texts of a single token are left out.

    Source: LLM-QAT (arXiv 2305.17888, section 2.1), which also starts with a random token, but takes the most likely
    token at the next three to five places; here all others are sampled.
    """
    firsts = first_tokens(model, sampling.number, sampling.seed)
    size = max(1, (CPU_TOKENS if model.device.type == "cpu" else GPU_TOKENS) // sampling.max_tokens)
    texts: list[tuple[int, ...]] = []
    devices = [] if model.device.type == "cpu" else [model.device]
    for start in range(0, len(firsts), size):
        with torch.random.fork_rng(devices):
            torch.manual_seed((sampling.seed << 20) + start)
            texts += _sample_batch(model, firsts[start : start + size], sampling)
    return [text for text in texts if len(text) > 1]


def first_tokens(model: LoadedModel, number: int, seed: int) -> list[int]:
    """Draw tokens of the vocabulary with equal probability, without special tokens.

    Args:
        model: the model.
        number: number of tokens.
        seed: seed of the draw.
    """
    vocabulary = min(len(model.tokenizer), model.network.get_input_embeddings().weight.shape[0])
    special = set(model.tokenizer.all_special_ids)
    tokens = [token for token in range(vocabulary) if token not in special]
    drawn: list[int] = np.random.default_rng(seed).choice(tokens, number).tolist()
    return drawn


def _sample_batch(model: LoadedModel, firsts: Sequence[int], sampling: TextSampling) -> list[tuple[int, ...]]:
    beginning = _beginning(model)
    ids = torch.tensor([[*beginning, first] for first in firsts], device=model.device)
    filler = model.tokenizer.pad_token_id
    with torch.inference_mode(), plain_generation(model):
        rows = model.network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            max_new_tokens=max(1, sampling.max_tokens - ids.shape[1]),
            pad_token_id=0 if filler is None else filler,
            use_cache=True,
        ).tolist()
    stops = set(end_tokens(model))
    return [_until(row, ids.shape[1], stops)[: sampling.max_tokens] for row in rows]


def _beginning(model: LoadedModel) -> list[int]:
    """Return the token that the tokenizer puts before a text, if it puts one."""
    bos = model.tokenizer.bos_token_id
    return [bos] if bos is not None and encode_text(model.tokenizer, "a")[:1] == [bos] else []


def _until(row: Sequence[int], start: int, stops: set[int]) -> tuple[int, ...]:
    """Return a row up to the first of some tokens after its beginning."""
    end = next((place for place in range(start, len(row)) if row[place] in stops), len(row))
    return tuple(row[:end])
