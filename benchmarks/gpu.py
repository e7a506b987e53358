"""Measure the probe on a GPU: time and peak memory of a pass over models of three sizes, with random weights.

Every ratio compares passes that took turns in one run on one card. The baseline runs in inference mode, without a
vocabulary head and without hooks; a pass under the probe includes the transfer of its statistics to the host. Needs
torch, transformers and the domain packages alone; benchmarks/gpu_job.py measures the job on Ray.

usage: python benchmarks/gpu.py [--rounds N] [--shapes 8b,1b,135m] [--json FILE]
"""

import argparse
import datetime
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModel, LlamaConfig

from stratoscope.activations import Probe, Tap, run_backbone
from stratoscope.models import LoadedModel, find_anatomy

EPSILONS = (0.01,)
DEFAULT_TAPS = (Tap.BLOCK, Tap.UPDATE)
WARM_UP = 3


class Shape(NamedTuple):
    """A model's sizes, a batch, and the ratios to the bare pass that a run should reach."""

    title: str
    config: LlamaConfig
    batch: tuple[int, int]
    default_target: float
    all_target: float | None


SHAPES = {
    "8b": Shape(
        "Llama-8B",
        LlamaConfig(
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
        ),
        (16, 512),
        1.05,
        1.15,
    ),
    "1b": Shape(
        "Llama-1B",
        LlamaConfig(
            vocab_size=128256,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
        ),
        (32, 512),
        1.08,
        1.20,
    ),
    "135m": Shape(
        "SmolLM2-135M",
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
        ),
        (64, 256),
        1.20,
        None,
    ),
    "tiny": Shape(
        "tiny, to try the benchmark itself on a CPU",
        LlamaConfig(
            vocab_size=49152,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        (4, 32),
        1.0,
        None,
    ),
}
MEMORY_TARGET = 1.03

Pass = Callable[[], object]
"""Runs one pass and returns what it keeps."""
Kind = Callable[[], AbstractContextManager[Pass]]
"""Sets the hooks, if any, outside the timed code, and removes them."""


def make_model(config: LlamaConfig, device: torch.device) -> LoadedModel:
    """Make a model with random weights on a device, in bfloat16."""
    torch.manual_seed(0)
    with torch.device(device):
        network = AutoModel.from_config(config, dtype=torch.bfloat16)
    return LoadedModel(network.eval(), None, find_anatomy(network, config.num_hidden_layers), device)


def make_batch(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Make random token ids without padding, and their mask, on the host as a job has them."""
    ids = torch.randint(0, shape.config.vocab_size, shape.batch, generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids)


@contextmanager
def bare_pass(model: LoadedModel, ids: torch.Tensor, mask: torch.Tensor) -> Iterator[Pass]:
    """Run a model's layers and nothing else."""

    @torch.inference_mode()
    def run() -> None:
        run_backbone(model, ids.to(model.device), mask.to(model.device))

    yield run


@contextmanager
def hidden_states_pass(model: LoadedModel, ids: torch.Tensor, mask: torch.Tensor) -> Iterator[Pass]:
    """Run a model's layers and keep all hidden states on the device, as transformers does."""

    @torch.inference_mode()
    def run() -> object:
        return model.backbone(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            use_cache=False,
            output_hidden_states=True,
        )

    yield run


@contextmanager
def probed_pass(model: LoadedModel, ids: torch.Tensor, mask: torch.Tensor, taps: Sequence[Tap]) -> Iterator[Pass]:
    """Run a model's layers under the probe."""
    with Probe(model, taps, EPSILONS) as probe:
        yield lambda: probe.measure(ids, mask)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; a CPU runs synchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(kind: Kind, device: torch.device) -> float:
    """Return the time of a pass, from an idle device to an idle device."""
    with kind() as run:
        synchronize(device)
        start = time.perf_counter()
        kept = run()
        synchronize(device)
        passed = time.perf_counter() - start
    del kept
    return passed


def peak_bytes(kind: Kind, device: torch.device) -> int:
    """Return the most memory that is allocated during a pass, the model's weights included."""
    if device.type != "cuda":
        return 1
    with kind() as run:
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        kept = run()
        synchronize(device)
    del kept
    return torch.cuda.max_memory_allocated(device)


def measure_shape(shape: Shape, device: torch.device, rounds: int) -> dict[str, Any]:
    """Measure all kinds of passes over one model, in turns."""
    model, batch = make_model(shape.config, device), make_batch(shape)
    kinds: dict[str, Kind] = {
        "bare": partial(bare_pass, model, *batch),
        "default taps": partial(probed_pass, model, *batch, DEFAULT_TAPS),
        "all five taps": partial(probed_pass, model, *batch, tuple(Tap)),
        "output_hidden_states": partial(hidden_states_pass, model, *batch),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(WARM_UP + rounds):
        # The pass before affects a card's temperature and clock, so the order of the kinds changes with every turn.
        for name in sorted(kinds, key=lambda name: (list(kinds).index(name) * (turn % 3 + 1) + turn) % 5):
            passed = seconds(kinds[name], device)
            if turn >= WARM_UP:
                times[name].append(passed)
    peaks = {name: peak_bytes(kind, device) for name, kind in kinds.items()}
    tokens = shape.batch[0] * shape.batch[1]
    ratios = {
        name: statistics.median(t / bare for t, bare in zip(taken, times["bare"], strict=True))
        for name, taken in times.items()
    }
    return {
        "shape": shape.title,
        "batch": list(shape.batch),
        "bare_seconds": statistics.median(times["bare"]),
        "bare_tokens_per_second": tokens / statistics.median(times["bare"]),
        "ratios": ratios,
        "spread": {name: max(taken) / min(taken) for name, taken in times.items()},
        "memory": {name: peak / peaks["bare"] for name, peak in peaks.items()},
        "bare_peak_bytes": peaks["bare"],
        "targets": {"default taps": shape.default_target, "all five taps": shape.all_target, "memory": MEMORY_TARGET},
    }


def card(device: torch.device) -> str:
    """Return the name of a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def table(results: Sequence[dict[str, Any]], device: torch.device) -> str:
    """Return the results as a table in Markdown, with card and date."""
    head = f"{card(device)}, {datetime.date.today()}, torch {torch.__version__}, bfloat16, random weights\n\n"
    lines = [
        "| model and batch | bare pass, tokens/s | default taps | all five taps | output_hidden_states "
        "| peak memory, default taps | all five taps |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ratios, memory, targets = result["ratios"], result["memory"], result["targets"]
        rows, columns = result["batch"]
        lines.append(
            f"| {result['shape']}, {rows} x {columns} | {result['bare_tokens_per_second']:,.0f} "
            f"| {_against(ratios['default taps'], targets['default taps'])} "
            f"| {_against(ratios['all five taps'], targets['all five taps'])} "
            f"| {ratios['output_hidden_states']:.3f} "
            f"| {_against(memory['default taps'], targets['memory'])} "
            f"| {_against(memory['all five taps'], targets['memory'])} |"
        )
    return head + "\n".join(lines)


def _against(ratio: float, target: float | None) -> str:
    return f"{ratio:.3f}" if target is None else f"{ratio:.3f} (at most {target:.2f})"


def main() -> None:
    """Measure the shapes that were asked for, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--shapes", default="8b,1b,135m")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is at hand: nothing was measured")
    results = []
    for name in options.shapes.split(","):
        results.append(measure_shape(SHAPES[name], device, options.rounds))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(table(results, device))
    if options.json:
        options.json.write_text(json.dumps({"card": card(device), "results": results}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
