"""Batches of sequences of similar length, and their padding."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

MAX_PADDING = 0.1
"""Largest share of padding in a batch on a CPU, where every padded position costs time."""
MAX_PADDING_ON_GPU = 0.5
"""The same on a GPU, where a small batch takes as long as a larger one. Batches that are full hardly have any padding,
since they hold sequences of similar length."""
MAX_PROMPTS = 256
"""Largest number of prompts in a batch, unless another is asked for."""
CPU_TOKENS = 2048
"""Tokens of a batch on a CPU, where larger batches are no faster."""
SMALL_MODEL = 3e9
"""Number of parameters up to which a batch on a GPU has `SMALL_MODEL_TOKENS`."""
SMALL_MODEL_TOKENS, LARGE_MODEL_TOKENS = 16384, 8192
"""Tokens of a batch on a GPU until the best number is measured."""
NEARLY_BEST = 0.97
"""Share of the best rate that a batch has to reach."""
FLAT_AFTER = 2
"""Number of doublings without a faster rate after which no larger batch is tried."""
STATISTICS_BYTES = 512e6
"""Memory of the host for the statistics of a batch."""


def bucket(
    lengths: Sequence[int],
    max_tokens: int,
    max_padding: float = MAX_PADDING,
    max_prompts: int = MAX_PROMPTS,
    classes: Sequence[int] | None = None,
) -> list[list[int]]:
    """Group prompts of similar length into batches under a budget of padded tokens.

    The longest come first, so that a batch that is too large for the device fails at once. The grouping is a pure
    function of the lengths and classes.

    Args:
        lengths: number of tokens of each prompt.
        max_tokens: largest number of tokens in a batch, padding included; a longer prompt gets a batch of its own.
        max_padding: largest share of padding in a batch.
        max_prompts: largest number of prompts in a batch, which bounds the memory of their statistics.
        classes: class of each prompt; only prompts of one class share a batch. None puts all into one.

    Returns:
        Indices into `lengths`, one list per batch.
    """
    batches: list[list[int]] = []
    latest: dict[int, list[int]] = {}  # batch of each class that is being filled
    real: dict[int, int] = {}  # tokens in it, without padding
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        key = 0 if classes is None else classes[index]
        batch = latest.get(key, [])
        padded = lengths[batch[0]] * (len(batch) + 1) if batch else 0
        fits = padded <= max_tokens and len(batch) < max_prompts if batch else False
        if fits and real[key] + lengths[index] >= (1 - max_padding) * padded:
            batch.append(index)
            real[key] += lengths[index]
        else:
            latest[key] = [index]
            batches.append(latest[key])
            real[key] = lengths[index]
    return batches


def padding_limit(device: torch.device) -> float:
    """Return the largest share of padding in a batch on a device."""
    return MAX_PADDING if device.type == "cpu" else MAX_PADDING_ON_GPU


def pad(rows: Sequence[Sequence[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad sequences of token ids on the right.

    Args:
        rows: the sequences.
        filler: token id of the padding.

    Returns:
        Ids and mask, both of shape (rows, longest) and integer; the mask is 0 on padding.
    """
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), filler, np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def usual_tokens(num_parameters: int, *, on_gpu: bool) -> int:
    """Return the usual number of tokens in a batch for a model of this size, from measurements on an H200."""
    if not on_gpu:
        return CPU_TOKENS
    return SMALL_MODEL_TOKENS if num_parameters < SMALL_MODEL else LARGE_MODEL_TOKENS


def prompts_in_memory(bytes_per_prompt: float) -> int:
    """Return how many prompts a batch on a GPU may have, given the memory that their statistics need.

    Args:
        bytes_per_prompt: size of a prompt's statistics on the host.
    """
    return min(4 * MAX_PROMPTS, max(MAX_PROMPTS // 16, int(STATISTICS_BYTES / bytes_per_prompt)))


def find_knee(rate: Callable[[int], float | None], start: int, most: int) -> int:
    """Return the smallest batch that is nearly as fast as the fastest, among doublings of `start`.

    Args:
        rate: measures the tokens per second of a batch with a given number of tokens; None if it does not fit into
            memory.
        start: number of tokens to start with.
        most: largest number of tokens to try.
    """
    rates: dict[int, float] = {}
    tokens = start
    while tokens <= most and not _is_flat(list(rates.values())) and (measured := rate(tokens)) is not None:
        rates[tokens] = measured
        tokens *= 2
    best = max(rates.values(), default=0.0)
    return next((tokens for tokens, measured in rates.items() if measured >= NEARLY_BEST * best), start)


def _is_flat(rates: Sequence[float]) -> bool:
    """Return whether two doublings have hardly raised the rate; further passes of a large model would take seconds."""
    return len(rates) > FLAT_AFTER and max(rates[:-FLAT_AFTER]) >= NEARLY_BEST * max(rates)
