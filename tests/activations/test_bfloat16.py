"""Statistics of a model in bfloat16 against the same model in float32, on the CPU."""

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stratoscope.activations import Probe, Tap
from stratoscope.activations.plan import ReadingPlan
from stratoscope.activations.reading import UNKNOWN
from stratoscope.activations.trial import ModelReading
from stratoscope.data import PromptSource, load_prompts
from stratoscope.models import Encoding, encode, load_model, pad
from stratoscope.statistics import Statistics, merge_all
from stratoscope.statistics.correlation import spearman

pytestmark = pytest.mark.long

TAPS = (Tap.BLOCK, Tap.UPDATE)
EPSILON = 0.01
NUM_PROMPTS = 24
LOWEST_QUARTER = 8


@cache
def measured(dtype: str) -> Statistics:
    """Statistics of all prompts together, shape (layers, taps)."""
    model = load_model("smollm2", dtype=dtype)
    texts = [prompt.text for prompt in load_prompts(PromptSource("sciq"), NUM_PROMPTS, 0).prompts]
    encoding = Encoding(chat=False, bos="auto", max_tokens=128, too_long="truncate")
    rows = [encoded.ids for encoded in encode(model.tokenizer, texts, encoding)]
    with Probe(model, TAPS, (EPSILON,)) as probe:
        statistics = probe.measure(*pad(rows, model.tokenizer.pad_token_id or 0)).statistics
        assert probe.layers_read_by_difference == ()
    return merge_all(statistics)


def scores(dtype: str, tap: Tap) -> dict[str, NDArray[np.float64]]:
    s = measured(dtype)[:, TAPS.index(tap)]
    sparsity = (s.below[:, 0] + 0.5) / (s.count + 1)
    return {"avss": s.variance / sparsity, "variance": s.variance, "sparsity": -sparsity, "influence": 1 - s.cosine}


@pytest.mark.parametrize("metric", ["avss", "variance", "sparsity", "influence"])
def test_every_metric_of_the_update_has_the_order_of_float32(metric: str) -> None:
    exact, rounded = (scores(dtype, Tap.UPDATE)[metric] for dtype in ("float32", "bfloat16"))
    assert spearman(exact, rounded) >= 0.99


@pytest.mark.parametrize("metric", ["avss", "variance", "sparsity", "influence"])
@pytest.mark.parametrize("tap", TAPS)
def test_the_lowest_quarter_is_that_of_float32(tap: Tap, metric: str) -> None:
    lowest = [set(np.argsort(scores(dtype, tap)[metric])[:LOWEST_QUARTER]) for dtype in ("float32", "bfloat16")]
    assert len(lowest[0] & lowest[1]) >= LOWEST_QUARTER - 1


def test_the_update_in_float32_is_output_minus_input() -> None:
    model = load_model("smollm2", dtype="float32")
    ids = torch.arange(64).view(2, 32) * 31
    with Probe(model, [Tap.UPDATE], (EPSILON,)) as probe:
        summed = probe.measure(ids, torch.ones_like(ids)).statistics
        probe._plan = ReadingPlan.make("", ModelReading((UNKNOWN,) * len(model.anatomy)), [Tap.UPDATE])
        difference = probe.measure(ids, torch.ones_like(ids)).statistics
    np.testing.assert_allclose(summed.m2, difference.m2, rtol=1e-5)
    np.testing.assert_allclose(summed.pooled_variance, difference.pooled_variance, rtol=1e-5)
    assert (np.abs(summed.below - difference.below) <= 1e-4 * summed.count[..., None]).all()
