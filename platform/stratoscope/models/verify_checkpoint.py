"""The exported checkpoint in a fresh process, loaded as anyone would: that it is the right model, and how fast."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from stratoscope.errors import RunError

PROBE = (2, 24)
NEW_TOKENS = 16
PREFILL = (8, 128)
DECODE = (1, 24)
PAIRS = 5


@dataclass(frozen=True)
class ProbeOutput:
    """What a model answers to a fixed probe."""

    logits: Any
    """Array of shape (rows, tokens, vocabulary)."""
    generated: Any
    """Greedy continuation with the KV cache, ids of shape (rows, tokens)."""


@dataclass(frozen=True)
class Paired:
    """Two models compared: the median of paired runs, and of the ratio of their speeds."""

    what: str
    unit: str
    before: float
    after: float
    gain: float
    """How many times as fast, with its range over pairs."""
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class ReferenceSpec:
    """On which terms the checkpoint and the original are compared: those on which the original was loaded."""

    original: str | None
    """What the checkpoint races against; None for no race."""
    revision: str | None
    device: str
    """Or 'auto', to spread layers over devices."""
    dtype: str
    attention: str | None
    trust_remote_code: bool
    num_threads: int


def answer(network: Any) -> ProbeOutput:
    """Ask a causal model the probe: seeded random tokens, and a greedy continuation of them."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = network.config.get_text_config().vocab_size
    ids = torch.randint(0, vocabulary, PROBE, generator=generator).to(network.device)
    with torch.inference_mode():
        logits = network(ids, use_cache=False).logits.float().cpu().numpy()
        generated = network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True
        )
    return ProbeOutput(logits, generated.cpu().numpy())


def check_in_fresh_process(folder: Path, expected: ProbeOutput, terms: ReferenceSpec) -> list[Paired]:
    """Load a checkpoint in a fresh process by transformers alone, compare its answers, and time it.

    Args:
        folder: the checkpoint.
        expected: what the pruned model in memory answers.
        terms: how the original was loaded.

    Returns:
        The times; none where there is no original, or where both do not fit onto the device together.

    Raises:
        RunError: it cannot be loaded, or its answers differ in any bit.
    """
    with tempfile.TemporaryDirectory(prefix="stratoscope-") as aside:
        file, result = Path(aside) / "expected.npz", Path(aside) / "result.json"
        np.savez(file, logits=expected.logits, generated=expected.generated)
        command = [sys.executable, "-m", __name__, str(folder), str(file), str(result), json.dumps(asdict(terms))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
            raise RunError(f"the exported checkpoint does not hold in a fresh process: {last}")
        return [Paired(**pair) for pair in json.loads(result.read_text())]


def _main(arguments: Sequence[str]) -> None:
    folder, file, result, how = arguments
    terms = ReferenceSpec(**json.loads(how))
    torch.set_num_threads(terms.num_threads)
    exported = _load(folder, terms)
    found, expected = answer(exported), np.load(file)
    if not np.array_equal(found.logits, expected["logits"]):
        apart = np.abs(found.logits - expected["logits"]).max()
        raise SystemExit(f"its logits differ from the pruned model's by up to {apart:.3g}")
    if not np.array_equal(found.generated, expected["generated"]):
        raise SystemExit("it generates other tokens than the pruned model")
    if terms.original is None:
        Path(result).write_text("[]")
        return
    try:
        race = _race(_load(terms.original, terms, dtype=terms.dtype, revision=terms.revision), exported)
    except torch.OutOfMemoryError:
        race = []
    Path(result).write_text(json.dumps([asdict(pair) for pair in race]))


def _load(name: str, terms: ReferenceSpec, **more: Any) -> Any:
    if terms.attention:
        more["attn_implementation"] = terms.attention
    network = AutoModelForCausalLM.from_pretrained(
        name, device_map=terms.device, trust_remote_code=terms.trust_remote_code, **more
    )
    return network.eval()


def _race(whole: Any, exported: Any) -> list[Paired]:
    prefill, decode = PREFILL[0] * PREFILL[1], DECODE[1]
    before, after = (sum(p.numel() * p.element_size() for p in m.parameters()) / 1e6 for m in (whole, exported))
    return [
        _paired("prefill", "tokens/s", (whole, exported), _pass, lambda s: prefill / s),
        _paired("decoding", "ms/token", (whole, exported), _write, lambda s: 1000 * s / decode),
        Paired("memory of the weights", "MB", before, after, before / after, before / after, before / after),
    ]


def _pass(network: Any) -> None:
    ids = torch.full(PREFILL, 5, device=network.device)
    network(ids, use_cache=False, logits_to_keep=1)


def _write(network: Any) -> None:
    ids = torch.full((DECODE[0], 16), 5, device=network.device)
    network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=DECODE[1],
        min_new_tokens=DECODE[1],
        do_sample=False,
        use_cache=True,
    )


def _paired(
    what: str, unit: str, models: tuple[Any, Any], run: Callable[[Any], None], measure: Callable[[float], float]
) -> Paired:
    seconds: list[Sequence[float]] = []
    with torch.inference_mode():
        for network in models:
            run(network)
        for pair in range(PAIRS):
            # One and the other first in turn.
            order = (0, 1) if pair % 2 == 0 else (1, 0)
            taken = {i: _seconds(run, models[i]) for i in order}
            seconds.append((taken[0], taken[1]))
    times = np.asarray(seconds)
    ratios = times[:, 0] / times[:, 1]
    slow, fast = np.median(times, axis=0)
    return Paired(
        what, unit, measure(slow), measure(fast), float(np.median(ratios)), float(ratios.min()), float(ratios.max())
    )


def _seconds(run: Callable[[Any], None], network: Any) -> float:
    started = time.perf_counter()
    run(network)
    if network.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    _main(sys.argv[1:])
