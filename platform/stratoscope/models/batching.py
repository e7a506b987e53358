"""Batches of sequences of similar length, and their padding."""

from collections.abc import Sequence

import torch

MAX_PADDING = 0.1
"""Largest share of padding in a batch, unless another is asked for."""


def bucket(
    lengths: Sequence[int], max_tokens: int, max_padding: float = MAX_PADDING, max_prompts: int = 256
) -> list[list[int]]:
    """Group prompts of similar length into batches under a budget of padded tokens.

    The longest come first, so that a batch that is too large for the device fails at once. The grouping is a pure
    function of the lengths.

    Args:
        lengths: number of tokens of each prompt.
        max_tokens: largest number of tokens in a batch, padding included; a longer prompt gets a batch of its own.
        max_padding: largest share of padding in a batch.
        max_prompts: largest number of prompts in a batch, which bounds the memory of their statistics.

    Returns:
        Indices into `lengths`, one list per batch.
    """
    batches: list[list[int]] = []
    longest = real = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        padded = longest * (len(batches[-1]) + 1) if batches else 0
        fits = padded <= max_tokens and len(batches[-1]) < max_prompts if batches else False
        if fits and real + lengths[index] >= (1 - max_padding) * padded:
            batches[-1].append(index)
            real += lengths[index]
        else:
            batches.append([index])
            longest = real = lengths[index]
    return batches


def pad(rows: Sequence[Sequence[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad sequences of token ids on the right.

    Args:
        rows: the sequences.
        filler: token id of the padding.

    Returns:
        Ids and mask, both of shape (rows, longest) and integer; the mask is 0 on padding.
    """
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), filler, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask
