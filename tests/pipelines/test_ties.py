"""Layers whose scores a number format cannot tell apart."""

from typing import Any

import numpy as np
import pytest

from stratoscope.models import resolution
from stratoscope.pipelines.score.read_scores import ScoredLayers
from stratoscope.tables.score import StabilityRow


def scored(metric: str, *scores: float, dtype: str = "bfloat16") -> ScoredLayers:
    row: Any = StabilityRow(
        tap="block",
        metric=metric,
        variance="elementwise",
        epsilon_kind="absolute",
        epsilon=0.01,
        split_half=1.0,
        group="all",
    )
    score = np.array(scores)
    rank = np.argsort(np.argsort(score))
    return ScoredLayers(row, score, score, score, rank, score / score.sum(), resolution(dtype))


def test_layers_within_the_resolution_are_tied() -> None:
    layers = scored("avss", 5.0, 1.0, 1.004, 3.0, 1.02)
    assert layers.order == [1, 2, 4, 3, 0]
    assert layers.ties == [True, False, False, False]
    assert layers.listing(2) == "1=2 | 4 3 0"
    assert layers.listing(1) == "1=| 2 4 3 0"
    assert layers.lowest(2) == "1 2"
    assert layers.lowest(1) == "1 (tied with 2)"


@pytest.mark.parametrize(("metric", "dtype"), [("avss", "float32"), ("magnitude", "bfloat16"), ("avss", "")])
def test_nothing_else_is_tied(metric: str, dtype: str) -> None:
    assert scored(metric, 1.0, 1.004, 1.0045, dtype=dtype).listing(1) == "0 | 1 2"


def test_no_lowest_layers_are_tied_with_none() -> None:
    assert scored("avss", 1.0, 2.0, 3.0, 3.001).lowest(0) == ""
