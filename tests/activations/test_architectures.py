"""Taps of architectures that differ from Llama's, against traced forward passes of each prompt alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stratoscope.activations import Batching, Probe, SegmentGroups, Span, Tap, run_backbone
from stratoscope.activations.trial import position_of_first, split_rows
from stratoscope.errors import InputError
from stratoscope.models import LoadedModel, find_anatomy, num_layers_of
from tests.activations.test_probe import EPSILONS, check_groups, loaded, padded_batch
from tests.models import zoo
from tests.models.truth import PART_TOLERANCE, READ_TOLERANCE, Truth, make_prompts, padded

FAMILIES = {model_type: family for family, model_type in zoo.model_types()}
RIGHT = {
    "granite": "both parts are added times a constant",
    "bloom": "both parts add the residual themselves",
    "mpt": "the feed-forward part adds the residual itself",
    "falcon": "the sum is written into the output of the feed-forward part",
    "falcon_h1": "two token mixers side by side, and a scaled feed-forward part",
    "granitemoeshared": "a mixture and a shared feed-forward part",
    "beam": "the stream is scaled as well",
    "gemma4_text": "the block scales its output, and adds a third part",
    "nomic_bert": "norms of the sum with the names of exit norms",
    "mpnet": "the last projection is two levels down",
    "inkling_text": "a convolution behind each part",
    "axk2": "linear maps in a norm behind the feed-forward part",
    "mllama": "a layer that runs on images alone",
    "mamba": "a token mixer alone",
    "qwen3_next": "linear attention",
    "recurrent_gemma": "recurrent blocks",
    "jamba": "state spaces and a mixture",
    "zamba": "a shared transformer whose output enters the token mixer alone",
    "lfm2_moe": "convolutions",
    "fnet": "Fourier transforms",
    "convbert": "padding changes what it computes",
    "kosmos-2.5": "positions count from behind the padding's",
}


def tiny(model_type: str) -> LoadedModel:
    network: Any = zoo.tiny_model(FAMILIES[model_type], model_type).base_model
    anatomy = find_anatomy(network, num_layers_of(network.config))
    return LoadedModel(network.eval(), None, anatomy, torch.device("cpu"))


@pytest.mark.parametrize("model_type", RIGHT)
def test_every_tap_is_what_a_traced_pass_shows(model_type: str) -> None:
    model = tiny(model_type)
    prompts = make_prompts(model.network)
    truth = Truth(model.network, prompts)
    with Probe(model, tuple(Tap)) as probe:
        assert not probe.withdrawn
        statistics = probe.measure(*padded(prompts, "right")).statistics
    for column, tap in enumerate(Tap):
        tolerance = READ_TOLERANCE if tap in {Tap.BLOCK, Tap.UPDATE} else PART_TOLERANCE
        for prompt, layer in np.ndindex(statistics.shape[:2]):
            place = (prompt, layer, column)
            measured = (float(statistics.count[place]), float(statistics.mean[place]), float(statistics.m2[place]))
            assert truth.compare(str(tap), prompt, layer, measured, tolerance) in {"", "null"}, (tap, prompt, layer)
        present = statistics.count[..., column].any(axis=0)
        assert present.any() or (model_type in {"mamba", "zamba"} and tap in {Tap.MLP, Tap.MLP_HIDDEN})


@pytest.mark.parametrize("model_type", ["zaya", "deepseek_v4"])
def test_taps_that_nothing_defines_are_withdrawn_and_the_others_are_read(model_type: str) -> None:
    model = tiny(model_type)
    with Probe(model, tuple(Tap)) as probe:
        assert set(probe.withdrawn) == {Tap.ATTENTION, Tap.MLP, Tap.MLP_HIDDEN}
        statistics = probe.measure(*padded(make_prompts(model.network), "right")).statistics
    assert statistics.count[..., :2].all()
    assert not statistics.count[..., 2:].any()
    assert np.isnan(statistics.pooled_variance[..., 2:]).all()
    with pytest.raises(InputError, match=r"attention, mlp cannot be read from .*: what layer"):
        Probe(model, [Tap.ATTENTION, Tap.MLP]).__enter__()


@pytest.mark.parametrize("model_type", ["dbrx", "jetmoe", "mobilebert"])
def test_a_feed_forward_part_without_a_last_linear_map_has_no_hidden_activation(model_type: str) -> None:
    with Probe(tiny(model_type), tuple(Tap)) as probe:
        assert set(probe.withdrawn) == {Tap.MLP_HIDDEN}


@pytest.mark.parametrize(
    ("model_type", "message"),
    [("xlnet", "shape .8, 2, 32."), ("gemma3n_text", "shape .4, 2, 8, 32."), ("blip", "does not run on text alone")],
)
def test_hidden_states_that_belong_to_no_token_are_refused_in_one_line(model_type: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        Probe(tiny(model_type), [Tap.BLOCK]).__enter__()
    assert "\n" not in str(raised.value)


def test_streams_side_by_side_are_one_wide_token() -> None:
    model = tiny("hy_v4")
    with Probe(model, [Tap.BLOCK]) as probe:
        statistics = probe.measure(*padded(make_prompts(model.network), "right")).statistics
    assert statistics.count[1, 0, 0] == 5 * 4 * 32


def test_batches_are_split_as_the_model_needs() -> None:
    mask = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 0]])
    assert split_rows(mask, Batching.EQUAL_LENGTHS) == [[0, 2], [1, 3]]
    assert split_rows(mask, Batching.SINGLE) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("model_type", ["convbert", "paligemma"])
def test_a_model_that_padding_changes_gets_batches_without(model_type: str) -> None:
    model = tiny(model_type)
    prompts = [*make_prompts(model.network), make_prompts(model.network)[1].flip(0)]
    spans = [Span(3, 0, 2), Span(0, 3, 9), Span(1, 1, 5)]
    with Probe(model, [Tap.BLOCK], EPSILONS, [(0, 2)]) as probe:
        assert probe.batching == Batching.EQUAL_LENGTHS
        together = probe.measure(*padded(prompts, "right"))
        left = probe.measure(*padded(prompts, "left"))
        parts = probe.measure(*padded(prompts, "right"), spans).statistics
        seen: list[tuple[list[int], list[int]]] = []

        def forward(ids: torch.Tensor, mask: torch.Tensor) -> None:
            run_backbone(model, ids, mask)
            seen.extend(zip(probe.rows, ids.tolist(), strict=True))

        probe.measure(*padded(prompts, "right"), spans, forward)
        assert sorted(seen) == [(row, prompt.tolist()) for row, prompt in enumerate(prompts)]
        groups = SegmentGroups(tuple(row % 2 for row in range(len(prompts))), 2)
        check_groups(probe.start(*padded(prompts, "right"), groups=groups)(), together, groups)
        for row, prompt in enumerate(prompts):
            ids = prompt.unsqueeze(0)
            alone = probe.measure(ids, torch.ones_like(ids))
            for batch in (together, left):
                np.testing.assert_allclose(batch.statistics.m2[row], alone.statistics.m2[0], rtol=1e-5)
                np.testing.assert_allclose(batch.span_cosine[row], alone.span_cosine[0], atol=1e-6)
        for place, span in enumerate(spans):
            ids = prompts[span.row].unsqueeze(0)
            own = probe.measure(ids, torch.ones_like(ids), [replace(span, row=0)]).statistics
            np.testing.assert_allclose(parts.m2[place], own.m2[0], rtol=1e-5)


def test_positions_count_as_the_model_itself_counts_them() -> None:
    model = tiny("kosmos-2.5")
    with Probe(model, [Tap.BLOCK]):
        assert position_of_first(model.backbone) == 2


def test_a_layer_that_does_not_run_has_no_activations_and_no_span_breaks() -> None:
    model = tiny("mllama")
    (absent,) = [i for i, block in enumerate(model.anatomy.blocks) if "CrossAttention" in type(block.module).__name__]
    with Probe(model, tuple(Tap), EPSILONS, [(0, 4), (absent, 1)]) as probe:
        measured = probe.measure(*padded(make_prompts(model.network), "right"))
    statistics = measured.statistics[:, absent]
    for name in ("count", "nonfinite", "prompts", "histogram", "below", "mean", "m2", "cosine_tokens"):
        assert not getattr(statistics, name).any(), name
    assert np.isnan(statistics.cosine).all()
    assert np.isnan(statistics.pooled_variance).all()
    np.testing.assert_allclose(measured.span_cosine[:, 1], 1)
    assert np.isfinite(measured.span_cosine).all()


def test_a_part_that_runs_twice_in_a_pass_ends_the_measurement() -> None:
    model = loaded("llama")
    part = model.anatomy.blocks[1].mlp
    assert part is not None
    with Probe(model, [Tap.MLP]) as probe:
        whole = type(part).forward

        def forward(self: nn.Module, hidden: Tensor) -> Tensor:
            part._forward_hooks[next(iter(part._forward_hooks))](part, (hidden,), whole(self, hidden))
            return whole(self, hidden)

        part.forward = forward.__get__(part)
        with pytest.raises(InputError, match="layer 1 did not run once each in this pass"):
            probe.measure(*padded_batch("right"))


def test_the_trial_leaves_weights_in_bfloat16_as_they_are() -> None:
    exact, rounded = tiny("bloom"), tiny("bloom")
    network = rounded.network.to(torch.bfloat16)
    before = {name: (value.data_ptr(), value.clone()) for name, value in network.state_dict().items()}
    readings = []
    for model in (exact, rounded):
        with Probe(model, tuple(Tap)) as probe:
            assert not probe.withdrawn
            readings.append([[(t.tap, t.factor) for t in block.terms or ()] for block in probe._reading.blocks])
    assert readings[0] == readings[1]
    for name, value in network.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])


def test_a_part_that_adds_nothing_has_numbers_all_the_same() -> None:
    model = loaded("llama")
    with torch.no_grad():
        model.anatomy.blocks[2].module.self_attn.o_proj.weight.zero_()
        model.anatomy.blocks[2].module.mlp.down_proj.weight.zero_()
    with Probe(model, tuple(Tap), EPSILONS) as probe:
        statistics = probe.measure(*padded_batch("right")).statistics
    assert statistics.count.all()
    assert not statistics.m2[:, 2, 1:4].any()
