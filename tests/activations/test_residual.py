"""What blocks add to the residual stream, determined on the models themselves."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GraniteConfig

from stratoscope.activations import Probe, Tap
from stratoscope.activations.trial import _trial_ids
from stratoscope.models import LoadedModel, find_anatomy
from stratoscope.statistics.sufficient import ARRAYS
from tests.activations.test_probe import EPSILONS, loaded, padded_batch
from tests.models import zoo
from tests.tiny import CONFIGURATIONS, ENCODERS, GROUPED

FACTOR = 0.22


def granite(dtype: torch.dtype) -> LoadedModel:
    """A tiny model that multiplies what its parts put out."""
    torch.manual_seed(0)
    config = GraniteConfig(**GROUPED, residual_multiplier=FACTOR)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return LoadedModel(network.to(dtype).eval(), None, find_anatomy(network, 4), torch.device("cpu"))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_blocks_that_normalise_their_sum_are_read_by_difference(name: str) -> None:
    with Probe(loaded(name), [Tap.UPDATE]) as probe:
        assert probe.layers_read_by_difference == ((0, 1, 2, 3) if name in ENCODERS else ())


def test_a_tap_that_needs_no_update_has_no_layer_read_by_difference() -> None:
    with Probe(loaded("bert"), [Tap.BLOCK]) as probe:
        assert probe.layers_read_by_difference == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_residual_multiplier_belongs_to_what_the_parts_add(dtype: torch.dtype) -> None:
    model = granite(dtype)
    with Probe(model, [Tap.UPDATE, Tap.ATTENTION, Tap.MLP], EPSILONS) as probe:
        assert {term.factor for block in probe._reading.blocks for term in block.terms or ()} == {FACTOR}
        statistics = probe.measure(*padded_batch("right")).statistics
    if dtype == torch.float32:
        np.testing.assert_allclose(
            statistics.mean[..., 0], statistics.mean[..., 1] + statistics.mean[..., 2], rtol=1e-4, atol=1e-7
        )


def test_an_output_that_the_block_writes_over_is_read_before_that() -> None:
    model = loaded("llama")
    with Probe(model, [Tap.ATTENTION], EPSILONS) as probe:
        expected = probe.measure(*padded_batch("right")).statistics

    class Overwriting(nn.Module):
        """Adds to an earlier output in place, as some blocks add their residual."""

        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.norm, self.stored = norm, []

        def forward(self, hidden: Tensor) -> Tensor:
            for tensor in self.stored:
                tensor.add_(1.0)
            self.stored.clear()
            return self.norm(hidden)

    fresh = loaded("llama")
    for block in fresh.anatomy.blocks:
        overwriting = Overwriting(block.module.post_attention_layernorm)
        block.module.post_attention_layernorm = overwriting
        block.attention.register_forward_hook(
            lambda _m, _a, output, stored=overwriting.stored: stored.append(output[0])
        )
    with Probe(fresh, [Tap.ATTENTION], EPSILONS) as probe:
        assert all(block.of(Tap.ATTENTION)[0].overwritten for block in probe._reading.blocks)
        measured = probe.measure(*padded_batch("right")).statistics
    np.testing.assert_array_equal(measured.m2[:, 0], expected.m2[:, 0])


def add_in_place(layer: Any) -> None:
    """Make a Llama layer write its output over its input, as the code of some published models does."""

    def forward(hidden_states: Tensor, **options: object) -> Tensor:
        attention, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **options)
        hidden_states.add_(attention)
        hidden_states.add_(layer.mlp(layer.post_attention_layernorm(hidden_states)))
        return hidden_states

    layer.forward = forward


@pytest.mark.parametrize("writing", [(0, 1, 2, 3), (2,)])
@pytest.mark.parametrize("lengths", [(6, 6), (6, 4)])
def test_a_stream_that_a_block_writes_over_is_read_before_that(
    lengths: tuple[int, ...], writing: tuple[int, ...]
) -> None:
    batch = padded_batch("right", lengths)
    with Probe(loaded("llama"), tuple(Tap), EPSILONS, [(0, 2)]) as probe:
        assert probe._plan.fits_kernel()
        expected = probe.measure(*batch)
    model = loaded("llama")
    for layer in writing:
        add_in_place(model.anatomy.blocks[layer].module)
    with Probe(model, tuple(Tap), EPSILONS, [(0, 2)]) as probe:
        assert [block.overwrites for block in probe._reading.blocks] == [layer in writing for layer in range(4)]
        assert not probe._plan.fits_kernel(), "the kernel reads a block's input after the block has run"
        measured = probe.measure(*batch)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(measured.statistics, name), getattr(expected.statistics, name), name)
    np.testing.assert_array_equal(measured.span_cosine, expected.span_cosine)


def zoo_model(model_type: str) -> LoadedModel:
    network = zoo.tiny_model("causal", model_type)
    return LoadedModel(network, None, find_anatomy(network, zoo.NUM_LAYERS), torch.device("cpu"))


def test_a_vector_that_a_block_adds_belongs_to_its_part() -> None:
    model = zoo_model("gpt_neox_japanese")
    with Probe(model, [Tap.UPDATE, Tap.ATTENTION, Tap.MLP], EPSILONS) as probe:
        biases = [[term.tap for term in b.terms or () if term.bias is not None] for b in probe._reading.blocks]
        assert biases == [[], [], [], [Tap.ATTENTION]]
        statistics = probe.measure(*padded_batch("right")).statistics
    np.testing.assert_allclose(
        statistics.mean[..., 0], statistics.mean[..., 1] + statistics.mean[..., 2], rtol=1e-4, atol=1e-7
    )


def test_a_stream_that_is_multiplied_by_a_vector_has_parts() -> None:
    with Probe(zoo_model("doge"), [Tap.UPDATE, Tap.ATTENTION, Tap.MLP, Tap.MLP_HIDDEN]) as probe:
        assert probe.withdrawn == {}
        assert probe.layers_read_by_difference == (0, 1, 2, 3)
        modules = [[term.module for term in block.terms or ()] for block in probe._reading.blocks]
    layers = probe.model.anatomy.blocks
    assert modules == [[b.module.self_attn, b.module.mlp] for b in layers]


def test_the_hidden_activation_of_a_gated_output_is_read_before_its_last_map() -> None:
    with Probe(zoo_model("rwkv"), [Tap.MLP_HIDDEN]) as probe:
        hidden = [block.hidden for block in probe._reading.blocks]
    assert hidden == [block.module.feed_forward.value for block in probe.model.anatomy.blocks]


PARALLEL = ["phi", "gpt_neox", "gptj", "falcon", "cohere"]


def with_massive_activation(model_type: str, part: str, size: float) -> LoadedModel:
    """A model in whose second layer one part puts out a large number at the first token of the trial alone."""
    model = zoo_model(model_type)
    first = _trial_ids(model.network)[0, 0]

    def enlarge(_module: nn.Module, _args: tuple, output: object) -> object:
        hidden, *others = output if isinstance(output, tuple) else (output,)
        hidden = hidden.clone()
        hidden[ids[-1] == first] += size * (torch.arange(hidden.shape[-1]) == 5)
        return (hidden, *others) if isinstance(output, tuple) else hidden

    ids: list[Tensor] = []
    model.backbone.get_input_embeddings().register_forward_pre_hook(lambda _, args: ids.append(args[0]))
    module = getattr(model.anatomy.blocks[1], part)
    assert module is not None
    module.register_forward_hook(enlarge)
    return model


@pytest.mark.parametrize("size", [1e4, 3e5, 1e7])
@pytest.mark.parametrize("part", ["attention", "mlp"])
@pytest.mark.parametrize("model_type", ["llama", *PARALLEL])
def test_a_massive_activation_on_one_token_hides_no_part(model_type: str, part: str, size: float) -> None:
    with Probe(with_massive_activation(model_type, part, size), [Tap.UPDATE, Tap.ATTENTION, Tap.MLP]) as probe:
        assert probe.withdrawn == {}
        assert probe.layers_read_by_difference == ()
        terms = [[(term.module, term.factor) for term in block.terms or ()] for block in probe._reading.blocks]
    assert terms == [[(b.attention, 1.0), (b.mlp, 1.0)] for b in probe.model.anatomy.blocks]


@pytest.mark.parametrize("part", ["attention", "mlp"])
@pytest.mark.parametrize("model_type", ["llama", *PARALLEL])
def test_a_part_too_small_to_be_seen_leaves_the_block_unknown(model_type: str, part: str) -> None:
    model = zoo_model(model_type)
    module = getattr(model.anatomy.blocks[2], part)
    with torch.no_grad():
        last = [child for child in module.modules() if isinstance(child, nn.Linear)][-1]
        last.weight.mul_(1e-9)
        if last.bias is not None:
            last.bias.zero_()
    with Probe(model, [Tap.UPDATE, Tap.ATTENTION, Tap.MLP]) as probe:
        assert probe.layers_read_by_difference == (2,)
        assert set(probe.withdrawn) == {Tap.ATTENTION, Tap.MLP}
