"""Measure the probe against good baselines: the time of a pass, and the peak memory of a batch.

All figures are medians of paired ratios from one run on one machine, on SmolLM2-135M and SciQ questions. The baseline
runs in inference mode, in the same bucketed batches, without a vocabulary head, on as many threads.

usage: python benchmarks/probe.py [--repeats N] [--prompts N]
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from stratoscope.activations import Probe, Tap, run_backbone
from stratoscope.data import PromptSource, load_prompts
from stratoscope.models import Encoding, bucket, encode, load_model

EPSILONS = (0.01,)
TAPS = (Tap.BLOCK, Tap.UPDATE)
BATCH_TOKENS = 2048
MEMORY_SHAPE = (64, 128)
ENCODING = Encoding(chat=False, bos="auto", max_tokens=1024, too_long="truncate")


Batch = tuple[torch.Tensor, torch.Tensor]


def show(name: str, values: Sequence[float], target: str) -> None:
    """Print a median with its range and the target."""
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"{name}: {middle:.3f} (from {low:.3f} to {high:.3f}, {len(values)} pairs; target {target})", flush=True)


def probe_against_bare(repeats: int, num_prompts: int) -> None:
    """Compare a pass under the probe with the bare pass over the same batches."""
    torch.set_num_threads(os.cpu_count() or 1)
    model = load_model("smollm2")
    texts = [prompt.text for prompt in load_prompts(PromptSource("sciq"), num_prompts, 0).prompts]
    rows = [encoded.ids for encoded in encode(model.tokenizer, texts, ENCODING)]
    batches = []
    for chosen in bucket([len(row) for row in rows], BATCH_TOKENS):
        ids = torch.zeros(len(chosen), max(len(rows[i]) for i in chosen), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, i in enumerate(chosen):
            ids[place, : len(rows[i])] = torch.tensor(rows[i])
            mask[place, : len(rows[i])] = 1
        batches.append((ids, mask))

    @torch.inference_mode()
    def bare(batch: Batch) -> float:
        start = time.perf_counter()
        run_backbone(model, *batch)
        return time.perf_counter() - start

    def probed(batch: Batch) -> float:
        start = time.perf_counter()
        probe.measure(*batch)
        return time.perf_counter() - start

    # Pairs of single batches in alternating order, since the machine's speed drifts within seconds.
    pairs = []
    for turn in range(repeats + 1):
        for batch in batches:
            if turn % 2:
                without = bare(batch)
            with Probe(model, TAPS, EPSILONS) as probe:
                under = probed(batch)
            if not turn % 2:
                without = bare(batch)
            pairs.append(under / without)
    show("probe / bare pass, default taps", pairs[len(batches) :], "at most 1.10")


def memory(kind: str) -> None:
    """Print the peak memory of one batch in this process, beyond that of the loaded model, in bytes."""
    torch.set_num_threads(os.cpu_count() or 1)
    model = load_model("smollm2")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 49000, MEMORY_SHAPE, generator=generator)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        run_backbone(model, ids[:1], mask[:1])
    # Linux resets the peak to the memory that is in use now.
    Path("/proc/self/clear_refs").write_text("5")
    before = held("VmRSS")
    if kind == "probe":
        with Probe(model, TAPS, EPSILONS) as probe:
            kept: object = probe.measure(ids, mask)
    else:
        with torch.inference_mode():
            kept = model.backbone(ids, attention_mask=mask, use_cache=False, output_hidden_states=kind == "hidden")
    print(held("VmHWM") - before)
    del kept


def held(name: str) -> int:
    """Return a figure of this process's memory in bytes, as Linux reports it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def memory_against_hidden_states() -> None:
    """Compare the peak memory of one batch, each in a process of its own."""
    peaks = {}
    for kind in ("bare", "probe", "hidden"):
        answer = subprocess.run(
            [sys.executable, __file__, "--memory", kind], capture_output=True, text=True, check=True
        ).stdout
        peaks[kind] = int(answer.split()[-1]) / 1e6
    shape = " x ".join(map(str, MEMORY_SHAPE))
    print(
        f"peak memory of a batch of {shape} tokens beyond the model: bare pass {peaks['bare']:.0f} MB, "
        f"probe {peaks['probe']:.0f} MB, output_hidden_states=True {peaks['hidden']:.0f} MB"
    )


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--memory", choices=["bare", "probe", "hidden"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        memory(options.memory)
        return
    probe_against_bare(options.repeats, options.prompts)
    memory_against_hidden_states()


if __name__ == "__main__":
    main()
