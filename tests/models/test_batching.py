import torch
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.models import bucket, find_knee, pad, padding_limit, prompts_in_memory, usual_tokens

LENGTHS = st.lists(st.integers(1, 1200), max_size=400)


@given(LENGTHS, st.integers(1, 3000))
def test_every_prompt_is_in_one_batch_within_the_limits(lengths: list[int], max_tokens: int) -> None:
    batches = bucket(lengths, max_tokens, max_prompts=50)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= max_tokens or len(batch) == 1
        assert len(batch) <= 50
        assert sum(lengths[i] for i in batch) >= 0.9 * padded, "a tenth of padding at most"


@given(LENGTHS)
def test_the_longest_come_first(lengths: list[int]) -> None:
    longest = [max(lengths[i] for i in batch) for batch in bucket(lengths, 2048)]
    assert longest == sorted(longest, reverse=True)


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=9))
def test_padding_stands_behind_the_tokens(rows: list[list[int]]) -> None:
    ids, mask = pad(rows, 7)
    assert ids.shape == mask.shape == (len(rows), max(map(len, rows)))
    assert [row[real.bool()].tolist() for row, real in zip(ids, mask, strict=True)] == rows
    assert ids[~mask.bool()].eq(7).all()


def saturating(tokens: int) -> float:
    """A device that needs 3,000 tokens for half of its speed."""
    return 1e5 * tokens / (tokens + 3000)


def test_the_knee_is_the_smallest_batch_that_is_nearly_as_fast_as_any() -> None:
    assert find_knee(lambda tokens: min(tokens, 6000), 1024, 65536) == 8192
    assert find_knee(lambda _tokens: 1.0, 1024, 65536) == 1024
    assert find_knee(saturating, 1024, 65536) == 65536
    assert find_knee(saturating, 1024, 4096) == 4096


def test_the_knee_lies_where_memory_suffices() -> None:
    tried = []

    def rate(tokens: int) -> float | None:
        tried.append(tokens)
        return tokens if tokens < 8000 else None

    assert find_knee(rate, 1024, 65536) == 4096
    assert tried == [1024, 2048, 4096, 8192], "nothing larger is tried once memory has run out"
    assert find_knee(lambda _tokens: None, 1024, 65536) == 1024


def test_small_batches_are_joined_on_a_gpu_and_full_ones_have_hardly_any_padding() -> None:
    cpu, gpu = (padding_limit(torch.device(kind)) for kind in ("cpu", "cuda"))
    few = list(range(10, 200, 10))
    assert len(bucket(few, 16384, gpu)) <= 2
    assert len(bucket(few, 16384, cpu)) >= 8
    many = [10 + number % 191 for number in range(20_000)]
    batches = bucket(many, 16384, gpu, 10_000)
    padded = sum(len(batch) * max(many[i] for i in batch) for batch in batches)
    assert padded < 1.05 * sum(many)


def test_batches_on_gpus_are_bounded_by_tokens_and_by_the_memory_of_statistics() -> None:
    assert usual_tokens(135_000_000, on_gpu=False) == 2048
    assert [usual_tokens(n, on_gpu=True) for n in (135_000_000, 1_000_000_000, 8_000_000_000)] == [16384, 16384, 8192]
    assert prompts_in_memory(1e6) == 512
    assert prompts_in_memory(1.0) == 1024
    assert prompts_in_memory(1e12) == 16


def test_batches_are_not_doubled_further_once_two_doublings_gained_nothing() -> None:
    tried: list[int] = []

    def rate(tokens: int) -> float:
        tried.append(tokens)
        return float(min(tokens, 4096)) + tokens / 1e6

    assert find_knee(rate, 1024, 65536) == 4096
    assert tried == [1024, 2048, 4096, 8192, 16384]
