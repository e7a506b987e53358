"""The probe on a GPU: the fused kernel against the torch form there, and the GPU against the CPU."""

import numpy as np
import pytest
import torch
from accelerate import dispatch_model

from stratoscope.activations import Probe, Tap
from stratoscope.activations.fused import Tiling
from stratoscope.models import LoadedModel, find_anatomy, load_model
from stratoscope.statistics import Statistics
from stratoscope.statistics.sufficient import ARRAYS
from tests.activations.fused_cases import (
    KERNEL_CASES,
    PROBE_CASES,
    SPANS,
    TAPS,
    check_kernel,
    check_nonfinite,
    check_probe,
)
from tests.activations.test_probe import EPSILONS, padded_batch
from tests.tiny import CONFIGURATIONS, tiny_network

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
GPU = torch.device("cuda", 0)
TILINGS = (Tiling(1, 256, 64, 1, 3, 1), Tiling(1, 512, 64, 1, 2, 1), Tiling(1, 1024, 32, 1, 1, 4))


@pytest.mark.parametrize("case", range(len(KERNEL_CASES)))
def test_the_kernel_equals_the_torch_form(case: int) -> None:
    check_kernel(GPU, *KERNEL_CASES[case])


@pytest.mark.parametrize("tiling", TILINGS)
def test_other_tiles_change_no_count(tiling: Tiling) -> None:
    check_kernel(GPU, torch.bfloat16, 1.0, tiling, SPANS)


@pytest.mark.parametrize("case", range(len(PROBE_CASES)))
def test_the_fused_probe_equals_the_torch_form(case: int) -> None:
    check_probe(GPU, *PROBE_CASES[case])


def test_what_is_not_finite_leads_to_the_careful_pass() -> None:
    check_nonfinite(GPU)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_tiny_model_in_float32_is_read_as_on_the_cpu(name: str) -> None:
    measured = []
    for device in (torch.device("cpu"), GPU):
        network = tiny_network(name).to(device)
        model = LoadedModel(network, None, find_anatomy(network, 4), device)
        with Probe(model, TAPS, EPSILONS) as probe:
            measured.append(probe.measure(*padded_batch("left")).statistics)
    assert_equal_statistics(*measured)


def test_a_real_model_in_float32_is_read_as_on_the_cpu() -> None:
    ids = torch.arange(4 * 64).view(4, 64) * 31
    measured = []
    for device in ("cpu", "cuda:0"):
        with Probe(load_model("smollm2", device, "float32"), TAPS, (0.01,)) as probe:
            measured.append(probe.measure(ids, torch.ones_like(ids)).statistics)
    assert_equal_statistics(*measured)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_model_spread_over_a_gpu_and_the_cpu_is_read_as_on_the_cpu(name: str) -> None:
    measured = []
    for spread in (False, True):
        network = tiny_network(name)
        layout = find_anatomy(network, 4)
        if spread:
            names = {module: path for path, module in network.named_modules()}
            upper = {names[block.module] for block in layout.blocks[2:]}
            leaves = [path for path, module in network.named_modules() if not list(module.children())]
            below = {path for path in leaves if not any(path.startswith(f"{block}.") for block in upper)}
            places = dict.fromkeys(below, "cpu") | dict.fromkeys(upper, 0)
            network = dispatch_model(network, places, main_device="cpu")
        with Probe(LoadedModel(network, None, layout, torch.device("cpu")), TAPS, EPSILONS, [(0, 3)]) as probe:
            measured.append(probe.measure(*padded_batch("left")))
    devices = {parameter.device.type for parameter in network.parameters()}
    assert devices == {"cpu", "cuda"}
    assert_equal_statistics(*(m.statistics for m in measured))
    np.testing.assert_allclose(measured[0].span_cosine, measured[1].span_cosine, atol=1e-4)


def assert_equal_statistics(cpu: Statistics, gpu: Statistics) -> None:
    """Moments within float32's rounding through the layers; counts but for activations next to a threshold."""
    np.testing.assert_array_equal(cpu.count, gpu.count)
    np.testing.assert_allclose(gpu.variance, cpu.variance, rtol=1e-3)
    np.testing.assert_allclose(gpu.cosine, cpu.cosine, atol=1e-4)
    assert (np.abs(gpu.below - cpu.below) <= 1e-2 * cpu.count[..., None]).all()


def test_two_passes_agree_to_the_bit() -> None:
    ids = torch.arange(8 * 96).view(8, 96) * 31
    with Probe(load_model("smollm2", "cuda:0", "bfloat16"), TAPS, (0.01,)) as probe:
        first, second = (probe.measure(ids, torch.ones_like(ids)).statistics for _ in range(2))
    for array in ARRAYS:
        np.testing.assert_array_equal(getattr(first, array), getattr(second, array), err_msg=array)


def test_default_taps_hold_little_memory() -> None:
    model = load_model("smollm2", "cuda:0", "bfloat16")
    ids = torch.arange(32 * 128).view(32, 128) * 11
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        peaks = []
        for run in (lambda: model.backbone(ids.cuda(), attention_mask=mask.cuda(), use_cache=False), None):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            if run:
                run()
            else:
                with Probe(model, (Tap.BLOCK, Tap.UPDATE), (0.01,)) as probe:
                    probe.measure(ids, mask)
            peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] <= 1.1 * peaks[0]
