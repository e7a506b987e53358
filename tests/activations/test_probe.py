"""The probe against statistics computed literally, in float64, from captured tensors."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stratoscope.activations import BatchStatistics, Probe, SegmentGroups, Span, Tap, run_head
from stratoscope.models import LoadedModel, find_anatomy, num_layers_of
from stratoscope.statistics import Statistics, merge_all
from stratoscope.statistics.histogram import NUM_BINS, bin_of
from stratoscope.statistics.sufficient import ARRAYS
from tests.tiny import CONFIGURATIONS, ENCODERS, VOCABULARY, tiny_network

EPSILONS = (1e-3, 0.05, 1.0)
LENGTHS = (9, 5, 1, 7)
ALL_TAPS = tuple(Tap)


def loaded(name: str) -> LoadedModel:
    network = tiny_network(name)
    return LoadedModel(network, None, find_anatomy(network, num_layers_of(network.config)), torch.device("cpu"))


def padded_batch(side: str, lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(max(lengths) - length, None)
        ids[row, where] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        mask[row, where] = 1
    return ids, mask


def check_groups(grouped: BatchStatistics, single: BatchStatistics, groups: SegmentGroups) -> None:
    """Histograms by group are the sums of those of the segments, and nothing else differs."""
    for array in set(ARRAYS) - {"histogram"}:
        of_grouped, of_single = (getattr(batch.statistics, array) for batch in (grouped, single))
        np.testing.assert_array_equal(of_grouped, of_single, err_msg=array)
    assert grouped.statistics.histogram.shape == (*grouped.statistics.shape, 0)
    assert single.group_histograms is None
    assert grouped.group_histograms is not None
    assert len(grouped.group_histograms) == groups.number
    for number, histogram in enumerate(grouped.group_histograms):
        members = np.array(groups.of_segment) == number
        np.testing.assert_array_equal(histogram, single.statistics.histogram[members].sum(axis=0))


@contextmanager
def capture(model: LoadedModel) -> Iterator[dict[tuple[int, Tap], Tensor]]:
    """Keep every tap's tensor, by plain hooks that share nothing with the probe."""
    kept: dict[tuple[int, Tap], Tensor] = {}
    handles = []

    def tensor(output: object) -> Tensor:
        return output[0] if isinstance(output, tuple) else output

    def on_block(layer: int):
        def hook(_: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            entering = args[0] if args else kwargs["hidden_states"]
            kept[layer, Tap.BLOCK] = tensor(output)
            kept[layer, Tap.UPDATE] = tensor(output) - entering

        return hook

    def on_module(layer: int, tap: Tap):
        return lambda _module, _args, output: kept.__setitem__((layer, tap), tensor(output))

    def on_input(layer: int, tap: Tap):
        return lambda _module, args: kept.__setitem__((layer, tap), args[0])

    def on_experts(layer: int):
        def hook(experts: nn.Module, args: tuple) -> None:
            hidden, chosen, _ = args
            rows = []
            for token, expert_ids in zip(hidden, chosen.tolist(), strict=True):
                projected = [experts.gate_up_proj[e] @ token for e in expert_ids]
                rows.append(torch.cat([nn.functional.silu(p[: len(p) // 2]) * p[len(p) // 2 :] for p in projected]))
            kept[layer, Tap.MLP_HIDDEN] = torch.stack(rows)

        return hook

    for layer, block in enumerate(model.anatomy.blocks):
        handles.append(block.module.register_forward_hook(on_block(layer), with_kwargs=True))
        handles.append(block.attention.register_forward_hook(on_module(layer, Tap.ATTENTION)))
        handles.append(block.mlp.register_forward_hook(on_module(layer, Tap.MLP)))
        if block.experts is not None:
            handles.append(block.experts.register_forward_pre_hook(on_experts(layer)))
        else:
            handles.append(block.mlp_output.register_forward_pre_hook(on_input(layer, Tap.MLP_HIDDEN)))
    yield kept
    for handle in handles:
        handle.remove()


def check_row(
    s: Statistics, index: tuple[int, ...], x: np.ndarray, *, pooled: bool = True, rounding: float = 0
) -> None:
    """Compare one set with the activations it was reduced from, shape (tokens, width).

    Where these were computed in another order than the model's, a share of them may lie on the other side of an edge.
    """
    x32, x = x.astype(np.float32), x.astype(np.float64)
    assert s.count[index] == x.size
    rms = np.sqrt((x**2).mean())
    np.testing.assert_allclose(s.mean[index], x.mean(), atol=1e-6 * rms)
    np.testing.assert_allclose(s.m2[index], ((x - x.mean()) ** 2).sum(), rtol=1e-5)
    expected = x.mean(axis=0).var(ddof=1) if pooled else np.nan
    np.testing.assert_allclose(s.pooled_variance[index], expected, rtol=1e-5)
    below = [int((np.abs(x32) < np.float32(e)).sum()) for e in EPSILONS]
    assert np.abs(s.below[index] - below).max() <= rounding * x.size
    assert np.abs(s.histogram[index] - np.bincount(bin_of(x32).ravel(), minlength=NUM_BINS)).sum() <= rounding * x.size
    assert s.nonfinite[index] == 0


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_statistics_equal_those_of_captured_tensors(name: str, side: str) -> None:
    model = loaded(name)
    ids, mask = padded_batch(side)
    with capture(model) as kept, Probe(model, ALL_TAPS, EPSILONS) as probe:
        s = probe.measure(ids, mask).statistics
    assert s.shape == (len(LENGTHS), 4, len(ALL_TAPS))
    for (layer, tap), tensor in kept.items():
        values = tensor.reshape(*mask.shape, -1)
        for row in range(len(LENGTHS)):
            mixture = tap == Tap.MLP_HIDDEN and model.anatomy.blocks[layer].experts is not None
            x = values[row][mask[row].bool()].numpy()
            check_row(s, (row, layer, ALL_TAPS.index(tap)), x, pooled=not mixture, rounding=0.01 if mixture else 0)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_attention_and_mlp_add_up_to_the_update(name: str) -> None:
    model = loaded(name)
    ids, mask = padded_batch("right", (6, 6))
    with capture(model) as kept, torch.no_grad():
        model.backbone(input_ids=ids, attention_mask=mask)
    for layer in range(4):
        attention, after = kept[layer, Tap.ATTENTION], kept[layer, Tap.BLOCK]
        mlp = kept[layer, Tap.MLP].reshape(attention.shape)
        if name in ENCODERS:
            # The block normalises the sum itself: a plain layer norm of it gives the output, whose weights are 1 and 0.
            before = after - kept[layer, Tap.UPDATE]
            middle = nn.functional.layer_norm(before + attention, (32,))
            torch.testing.assert_close(nn.functional.layer_norm(middle + mlp, (32,)), after, rtol=1e-4, atol=1e-4)
        else:
            torch.testing.assert_close(attention + mlp, kept[layer, Tap.UPDATE], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_padding_and_its_side_change_nothing_but_rounding(name: str) -> None:
    model = loaded(name)
    alone = []
    with Probe(model, ALL_TAPS, EPSILONS) as probe:
        right, left = (probe.measure(*padded_batch(side)).statistics for side in ("right", "left"))
        ids, mask = padded_batch("right")
        for row, length in enumerate(LENGTHS):
            alone.append(probe.measure(ids[row : row + 1, :length], mask[row : row + 1, :length]).statistics)
    for row in range(len(LENGTHS)):
        for other in (right, left):
            np.testing.assert_allclose(other.variance[row], alone[row].variance[0], rtol=1e-4)
            np.testing.assert_allclose(other.cosine[row], alone[row].cosine[0], atol=1e-5)
            share = np.abs(other.below[row] - alone[row].below[0]) / alone[row].count[0][..., None]
            assert share.max() < 0.01


def test_cosine_and_spans_by_hand() -> None:
    model = loaded("llama")
    ids, mask = padded_batch("right")
    spans = [(0, 1), (1, 2), (0, 4)]
    with Probe(model, [Tap.BLOCK], (), spans) as probe:
        got = probe.measure(ids, mask)
    with torch.no_grad():
        hidden = model.backbone.embed_tokens(ids)
        states = [hidden]
        with capture(model) as kept:
            model.backbone(input_ids=ids, attention_mask=mask)
        states += [kept[layer, Tap.BLOCK] for layer in range(4)]
    for row, length in enumerate(LENGTHS):
        real = [state[row, :length].double() for state in states]
        for layer in range(4):
            expected = torch.cosine_similarity(real[layer], real[layer + 1], dim=1).mean()
            np.testing.assert_allclose(got.statistics.cosine[row, layer, 0], expected, atol=1e-6)
        for column, (start, size) in enumerate(spans):
            expected = torch.cosine_similarity(real[start][-1], real[start + size][-1], dim=0)
            np.testing.assert_allclose(got.span_cosine[row, column], expected, atol=1e-6)


def test_non_finite_activations_are_counted_and_poison_nothing() -> None:
    model = loaded("gpt2")
    ids, mask = padded_batch("right", (6, 6))
    with Probe(model, ALL_TAPS, EPSILONS) as probe:
        clean = probe.measure(ids, mask).statistics
    broken_unit = 3

    def break_one(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        output = output.clone()
        output[1, :, broken_unit] = torch.nan
        output[1, 0, 0] = torch.inf
        return output

    handle = model.anatomy.blocks[2].mlp.register_forward_hook(break_one)
    with Probe(model, [Tap.MLP], EPSILONS) as probe:
        s = probe.measure(ids, mask).statistics
    handle.remove()
    mlp = ALL_TAPS.index(Tap.MLP)
    for name in ("mean", "m2", "below", "histogram"):
        np.testing.assert_allclose(getattr(s, name)[0, :, 0], getattr(clean, name)[0, :, mlp], rtol=1e-5)
    assert s.nonfinite[:, 2, 0].tolist() == [0, 7]
    assert s.count[1, 2, 0] == 6 * 32 - 7
    assert np.isfinite(s.variance[1, 2, 0])
    assert np.isfinite(s.pooled_variance[1, 2, 0])
    assert s.nonfinite[1, 3, 0] == 6 * 32
    assert s.count[1, 3, 0] == 0
    assert np.isfinite(merge_all(s).variance).all()


def test_the_vocabulary_head_never_runs() -> None:
    model = loaded("llama")
    ran = []
    model.network.lm_head.register_forward_hook(lambda *_: ran.append(True))
    with Probe(model, [Tap.BLOCK]) as probe:
        probe.measure(*padded_batch("right"))
    assert not ran


def test_hooks_are_gone_after_the_block_even_on_an_error() -> None:
    model = loaded("llama")
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())
    with pytest.raises(RuntimeError, match="boom"), Probe(model, ALL_TAPS):
        raise RuntimeError("boom")
    after = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())
    assert before == after
    with pytest.raises(RuntimeError, match="inside its 'with' block"):
        Probe(model, ALL_TAPS).measure(*padded_batch("right"))


def test_bfloat16_is_read_as_it_is() -> None:
    model = loaded("llama")
    model = LoadedModel(model.network.to(torch.bfloat16), None, model.anatomy, model.device)
    ids, mask = padded_batch("right")
    with capture(model) as kept, Probe(model, [Tap.BLOCK], EPSILONS) as probe:
        s = probe.measure(ids, mask).statistics
    for row, length in enumerate(LENGTHS):
        check_row(s, (row, 3, 0), kept[3, Tap.BLOCK][row, :length].float().numpy())


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_parts_of_prompts_are_read_alone(name: str) -> None:
    model = loaded(name)
    ids, mask = padded_batch("right")
    parts = [Span(0, 3, 9), Span(0, 8, 9), Span(3, 0, 2), Span(0, 0, 9), Span(1, 4, 5)]
    with capture(model) as kept, Probe(model, ALL_TAPS, EPSILONS) as probe:
        measured = probe.measure(ids, mask, parts)
    assert measured.statistics.shape == (len(parts), len(model.anatomy), len(ALL_TAPS))
    for segment, part in enumerate(parts):
        for layer, block in enumerate(model.anatomy.blocks):
            for tap, which in enumerate(ALL_TAPS):
                hidden = kept[layer, which].reshape(*ids.shape, -1)
                expected = hidden[part.row, part.start : part.stop].numpy()
                pooled = not (which == Tap.MLP_HIDDEN and block.experts is not None)
                rounding = 0.01 if block.experts is not None else 0
                check_row(measured.statistics, (segment, layer, tap), expected, pooled=pooled, rounding=rounding)
    assert measured.statistics.tokens[:, 0, 0].tolist() == [6, 1, 2, 9, 1]


def test_a_part_without_tokens_is_refused() -> None:
    with Probe(loaded("llama"), [Tap.BLOCK]) as probe, pytest.raises(ValueError, match="no token"):
        probe.measure(*padded_batch("right"), [Span(0, 2, 2)])


def test_the_head_sees_chosen_positions_alone() -> None:
    network = tiny_network("llama")
    model = LoadedModel(network, None, find_anatomy(network, num_layers_of(network.config)), torch.device("cpu"))
    ids, mask = padded_batch("right")
    keep = torch.zeros_like(mask, dtype=torch.bool)
    keep[0, 4], keep[0, 6], keep[3, 1] = True, True, True
    found = []
    with Probe(model, [Tap.BLOCK]) as probe:
        whole = probe.measure(ids, mask)
        with_head = probe.measure(ids, mask, forward=lambda i, m: found.append(run_head(model, i, m, keep)))
    with torch.inference_mode():
        expected = network(ids, attention_mask=mask).logits
    torch.testing.assert_close(found[0], torch.stack([expected[0, 4], expected[0, 6], expected[3, 1]]))
    np.testing.assert_array_equal(whole.statistics.m2, with_head.statistics.m2)


@pytest.mark.parametrize("parts", [None, [Span(0, 2, 7), Span(0, 3, 9), Span(2, 3, 4)]])
def test_histograms_are_summed_by_group(parts: list[Span] | None) -> None:
    with Probe(loaded("llama"), tuple(Tap), EPSILONS) as probe:
        single = probe.measure(*padded_batch("right"), parts)
        for number in (1, 2):
            of_segment = tuple(i % number for i in range(len(single.statistics.count)))
            groups = SegmentGroups(of_segment, 2 * number - 1)  # a group may have no segment
            check_groups(probe.start(*padded_batch("right"), parts, groups=groups)(), single, groups)
