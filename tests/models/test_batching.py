from hypothesis import given
from hypothesis import strategies as st

from stratoscope.models import bucket

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
