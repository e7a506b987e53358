"""Layers that have to be kept are in no candidate."""

import numpy as np
import pytest

from stratoscope.errors import InputError
from stratoscope.pipelines.search.pruning.checks import check_ratios
from stratoscope.pruning import LayerScores, PruningSpace, ScoreKey, random_sets


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("high_is_important", [False, True])
def test_layers_without_a_score_are_in_no_candidate(contiguous: bool, high_is_important: bool) -> None:
    space = PruningSpace(metrics=("random",), taps=("update",), ratios=(0.5,), contiguous=(contiguous,))
    scores = LayerScores(np.arange(8.0), high_is_important).without((0, 7))
    candidate = space.candidate({"metric": "random", "draw": 0, "ratio": 0.5, "contiguous": contiguous})
    dropped = candidate.dropped({ScoreKey("random", draw=0): scores}, 8)
    assert len(dropped) == 4
    assert not {0, 7} & set(dropped)


def test_random_sets_are_of_the_layers_that_may_be_dropped() -> None:
    assert sorted(random_sets([2, 5, 6], 2, 9, 0)) == [(2, 5), (2, 6), (5, 6)]


def test_a_ratio_that_needs_protected_layers_is_refused() -> None:
    check_ratios([0.75], 8, "model", protected=(0, 4))
    with pytest.raises(InputError, match=r"drops 7 of the 8 layers of 'model', of which 0, 4 have to be kept; give at"):
        check_ratios([0.875], 8, "model", protected=(0, 4))
    check_ratios([0.375], 8, "model", protected=(0, 4), contiguous=(True,))
    with pytest.raises(InputError, match=r"at most 0.375 with space.contiguous"):
        check_ratios([0.5], 8, "model", protected=(0, 4), contiguous=(True,))
