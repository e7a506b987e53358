"""The fused kernel without a GPU, under Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stratoscope.activations import fused
from stratoscope.activations.reduce import Bins

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_equals_the_torch_form_under_the_interpreter() -> None:
    # The interpreter must be asked for before the kernels are imported, hence a process of its own.
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(["platform", *sys.path])}
    command = [sys.executable, "-m", "tests.activations.fused_cases"]
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_a_cpu_needs_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cpu = torch.device("cpu")
    assert not fused.available(cpu, Bins.build((0.01,), cpu))


def test_more_thresholds_than_the_kernel_has_counters_for_take_the_torch_form() -> None:
    cpu = torch.device("cpu")
    many = Bins.build(tuple(i / 1000 for i in range(1, 200)), cpu)
    assert not fused.available(torch.device("cuda"), many)


@pytest.mark.parametrize("width", [1, 32, 576, 4096, 14336])
def test_tiles_are_powers_of_two_and_cover_no_more_than_needed(width: int) -> None:
    tiling = fused.choose_tiling(width, 1, 4096)
    assert tiling.columns & (tiling.columns - 1) == 0
    assert tiling.columns < 2 * width or width == 1
