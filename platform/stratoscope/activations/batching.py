"""Which prompts of a shard share a batch."""

from collections.abc import Sequence


def bucket(lengths: Sequence[int], max_tokens: int, max_padding: float = 0.1) -> list[list[int]]:
    """Group prompts of like length into batches under a budget of padded tokens.

    The longest come first, so that a batch too large for the device shows at once. The grouping is a pure function of
    the lengths.

    Args:
        lengths: tokens of each prompt.
        max_tokens: most tokens of a batch, padding included; a longer prompt gets a batch of its own.
        max_padding: largest share of a batch that may be padding.

    Returns:
        Indices into `lengths`, one list a batch.
    """
    batches: list[list[int]] = []
    longest = real = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        padded = longest * (len(batches[-1]) + 1) if batches else 0
        if batches and padded <= max_tokens and real + lengths[index] >= (1 - max_padding) * padded:
            batches[-1].append(index)
            real += lengths[index]
        else:
            batches.append([index])
            longest = real = lengths[index]
    return batches
