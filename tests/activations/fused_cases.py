"""The fused kernel against the torch form, on a device; run as a program it uses the CPU and Triton's interpreter."""

import numpy as np
import torch

from stratoscope.activations import Probe, SegmentGroups, Span, Tap
from stratoscope.activations.fused import FusedPass, Tiling
from stratoscope.activations.reduce import Bins, TokenSums, merge_tokens, reduce_tokens
from stratoscope.activations.segments import Segments
from stratoscope.models import LoadedModel, find_anatomy
from stratoscope.statistics.sufficient import ARRAYS
from tests.activations.test_probe import EPSILONS, check_groups, padded_batch
from tests.tiny import tiny_network

TAPS = tuple(Tap)
EXACT = ("prompts", "tokens", "count", "histogram", "below", "nonfinite", "cosine_tokens")
WIDTH, HIDDEN = 72, 40


def check_kernel(
    device: torch.device, dtype: torch.dtype, factor: float | None, tiling: Tiling, parts: list[Span] | None
) -> None:
    """Reduce random activations of two layers in both ways: counts agree to the unit, moments within rounding."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:], mask[2, :3] = 0, 0
    segments = (Segments.from_spans(parts, 9, mask.device) if parts else Segments.from_mask(mask)).to(device)
    bins = Bins.build((0.01, 0.5), device)

    def random(width: int) -> torch.Tensor:
        return torch.randn(3, 9, width, generator=generator).to(device, dtype)

    kernel = FusedPass(TAPS, 2, bins, segments, dict.fromkeys((WIDTH, HIDDEN), tiling))
    expected = TokenSums.zeros(2 * len(TAPS), segments, bins)
    for layer in range(2):
        before, attention, mlp, hidden = random(WIDTH) * 3 + 1, random(WIDTH), random(WIDTH), random(HIDDEN).relu()
        before[0, 0, 3] = 1e4
        after = before + attention + mlp
        kernel.read_hidden(layer, hidden)
        kernel.read_block(layer, before, after, attention=attention, mlp=mlp, factor=factor)
        added = [part.float() * (factor or 1.0) for part in (attention, mlp)]
        update = (attention.float() + mlp.float()) * factor if factor else after.float() - before.float()
        for tap, values in zip(TAPS, (after, update, *added, hidden), strict=True):
            place = layer * len(TAPS) + TAPS.index(tap)
            expected.put([place], reduce_tokens(segments.take(values)[None], segments, bins))
    sums = kernel.finish()
    assert torch.equal(sums.fine.long(), expected.fine.view(sums.fine.shape))
    rows = merge_tokens(expected, segments, bins).transpose(0, 1).reshape(2, len(TAPS), len(segments), -1)
    deviation = (rows[..., 1:2] / (sums.fine.sum(-1, keepdim=True))).sqrt()
    torch.testing.assert_close(sums.moments[..., 1:], rows[..., 1:3], rtol=1e-5, atol=1e-9)
    assert ((sums.moments[..., :1] - rows[..., :1]).abs() <= 1e-6 * (deviation + rows[..., :1].abs())).all()


def check_probe(device: torch.device, name: str, taps: tuple[Tap, ...], parts: list[Span] | None) -> None:
    """Measure a tiny model under both forms, on one device."""
    network = tiny_network(name).to(device)
    model = LoadedModel(network, None, find_anatomy(network, 4), device)
    measured = []
    for has_kernel in (True, False):
        with Probe(model, taps, EPSILONS, [(0, 2)]) as probe:
            assert probe._has_kernel, "the kernel is not to be had"
            probe._has_kernel = has_kernel
            measured.append(probe.measure(*padded_batch("left"), parts))
    fused, reference = (m.statistics for m in measured)
    for array in ARRAYS:
        compare = np.testing.assert_array_equal if array in EXACT else _assert_close
        compare(getattr(fused, array), getattr(reference, array), err_msg=array)
    _assert_close(measured[0].span_cosine, measured[1].span_cosine)
    with Probe(model, taps, EPSILONS) as probe:
        groups = SegmentGroups(tuple(i % 2 for i in range(len(fused.count))), 3)
        check_groups(probe.start(*padded_batch("left"), parts, groups=groups)(), measured[0], groups)


def check_nonfinite(device: torch.device) -> None:
    """What is not finite leads to the careful pass, whose statistics are those of the torch form."""
    network = tiny_network("gpt2").to(device)
    model = LoadedModel(network, None, find_anatomy(network, 4), device)

    def break_one(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[1, -1, 3] = torch.nan
        return output

    with Probe(model, [Tap.MLP], EPSILONS) as probe:
        assert probe._has_kernel
        # Before the probe's own hook, so that it reads what this one returns.
        handle = model.anatomy.blocks[2].mlp.register_forward_hook(break_one, prepend=True)
        statistics = probe.measure(*padded_batch("left")).statistics
    handle.remove()
    assert statistics.nonfinite[:, 2, 0].tolist() == [0, 1, 0, 0]
    assert np.isfinite(statistics.variance[:, 2]).all()


def _assert_close(a: object, b: object, err_msg: str = "") -> None:
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=err_msg)


SPANS = [Span(0, 2, 7), Span(0, 3, 9), Span(2, 3, 4)]
KERNEL_CASES = [
    (torch.float32, 1.0, Tiling(1, 64, 4, 2, 1, 1), None),
    (torch.bfloat16, 1.0, Tiling(2, 32, 4, 2, 2, 1), SPANS),
    (torch.float16, 0.5, Tiling(1, 64, 16, 1, 3, 1), None),
    (torch.bfloat16, None, Tiling(4, 32, 8, 3, 1, 1), None),
]
PROBE_CASES = [
    ("llama", TAPS, None),
    ("llama", (Tap.BLOCK, Tap.UPDATE), SPANS),
    ("bert", (Tap.UPDATE, Tap.MLP), None),
    ("qwen3_moe", (Tap.MLP_HIDDEN,), None),
]

if __name__ == "__main__":
    torch.set_num_threads(1)
    # The interpreter takes seconds for each, so it does not take them all.
    for case in KERNEL_CASES[1:3]:
        check_kernel(torch.device("cpu"), *case)
    for probe_case in PROBE_CASES[1:3]:
        check_probe(torch.device("cpu"), *probe_case)
    check_nonfinite(torch.device("cpu"))
