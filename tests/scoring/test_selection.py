import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.scoring import num_dropped, select_layers

SCORES = st.lists(st.floats(0, 100), min_size=2, max_size=40).map(np.array)


def test_free_and_contiguous_by_hand() -> None:
    scores = np.array([5.0, 1.0, 4.0, 2.0, 2.5, 9.0, 0.5, 8.0])
    assert select_layers(scores, 0.25) == (1, 6)
    assert select_layers(scores, 0.25, contiguous=True) == (3, 4)
    assert select_layers(scores, 0.25, high_is_important=False) == (5, 7)
    assert select_layers(scores, 0.25, contiguous=True, high_is_important=False) == (4, 5)


def test_layers_without_a_score_are_kept() -> None:
    scores = np.array([np.nan, 3.0, np.nan, 2.0])
    assert select_layers(scores, 0.5) == (1, 3)
    assert select_layers(np.array([np.nan, 3.0, 9.0, 2.0]), 0.5, contiguous=True) == (2, 3)


@given(SCORES, st.floats(0, 0.95), st.booleans(), st.booleans())
def test_as_many_as_the_ratio_says_and_never_a_worse_one(
    scores: np.ndarray, ratio: float, contiguous: bool, high: bool
) -> None:
    count = num_dropped(ratio, len(scores))
    if count >= len(scores):
        with pytest.raises(ValueError, match="leaves none"):
            select_layers(scores, ratio, contiguous=contiguous, high_is_important=high)
        return
    dropped = select_layers(scores, ratio, contiguous=contiguous, high_is_important=high)
    assert len(dropped) == count
    assert list(dropped) == sorted(set(dropped))
    importance = scores if high else -scores
    if contiguous and dropped:
        assert dropped == tuple(range(dropped[0], dropped[0] + count))
        sums = [importance[i : i + count].sum() for i in range(len(scores) - count + 1)]
        assert importance[list(dropped)].sum() == pytest.approx(min(sums))
    elif dropped:
        kept = [i for i in range(len(scores)) if i not in dropped]
        assert importance[list(dropped)].max() <= importance[kept].min()
