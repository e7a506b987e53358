"""Verification of an exported checkpoint in a fresh process: its output is compared, and its speed is measured."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stratoscope.errors import RunError, last_line
from stratoscope.models.classes import class_with_head
from stratoscope.models.completeness import check_complete
from stratoscope.models.load import LoadSpec, load_network
from stratoscope.models.source import local_folder
from stratoscope.models.speed import SpeedComparison, compare_runs, timed

PROBE = (2, 24)
NEW_TOKENS = 16
DECODE = (1, 24)


@dataclass(frozen=True)
class ProbeOutput:
    """The output of a model for a fixed probe."""

    logits: Any
    """Logits, array of shape (rows, tokens, vocabulary)."""
    generated: Any
    """Greedy continuation with the KV cache, ids of shape (rows, tokens)."""


@dataclass(frozen=True)
class ReferenceSpec:
    """Options for loading the checkpoint and the original, the same as those of the run."""

    original: str | None
    """Model that the checkpoint's speed is compared with; None measures no speed."""
    revision: str | None
    device: str
    """Device, or 'auto' to spread layers over devices."""
    dtype: str
    attention: str | None
    trust_remote_code: bool
    num_threads: int

    @classmethod
    def from_loading(
        cls, loading: LoadSpec, dtype: torch.dtype, num_threads: int, *, with_original: bool
    ) -> "ReferenceSpec":
        """Return the reference for a model.

        Args:
            loading: how the model was loaded.
            dtype: number format of its weights.
            num_threads: number of CPU threads.
            with_original: whether the speed is compared with the original's.
        """
        return cls(
            original=local_folder(loading.source) if with_original else None,
            revision=loading.source.revision,
            device="auto" if loading.spread else loading.device,
            dtype=str(dtype).removeprefix("torch."),
            attention=loading.attention,
            trust_remote_code=loading.trust_remote_code,
            num_threads=num_threads,
        )


def answer(network: Any) -> ProbeOutput:
    """Return the output of a causal model for seeded random tokens, with a greedy continuation of them.

    The weights are first copied out of the memory-mapped file, because the last bit of a product may depend on their
    position in the file.
    """
    for parameter in network.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()
    generator = torch.Generator().manual_seed(0)
    vocabulary = network.config.get_text_config().vocab_size
    ids = torch.randint(0, vocabulary, PROBE, generator=generator).to(network.device)
    with torch.inference_mode():
        logits = network(ids, use_cache=False).logits.float().cpu().numpy()
        generated = network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True
        )
    return ProbeOutput(logits, generated.cpu().numpy())


def check_in_fresh_process(folder: Path, expected: ProbeOutput, terms: ReferenceSpec) -> list[SpeedComparison]:
    """Load a checkpoint in a fresh process by transformers alone, compare its output, and measure its speed.

    Args:
        folder: the checkpoint.
        expected: output of the pruned model in memory.
        terms: how the original was loaded.

    Returns:
        The measurements; none where there is no original, or where both models do not fit onto the device together.

    Raises:
        RunError: the checkpoint cannot be loaded, or its output differs in any bit.
    """
    with tempfile.TemporaryDirectory(prefix="stratoscope-") as temporary:
        file, result = Path(temporary) / "expected.npz", Path(temporary) / "result.json"
        np.savez(file, logits=expected.logits, generated=expected.generated)
        command = [sys.executable, "-m", __name__, str(folder), str(file), str(result), json.dumps(asdict(terms))]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            message = last_line(process.stderr) or f"exit code {process.returncode}"
            raise RunError(f"the exported checkpoint fails verification in a fresh process: {message}")
        return [SpeedComparison(**comparison) for comparison in json.loads(result.read_text())]


def _main(arguments: Sequence[str]) -> None:
    folder, file, result, terms_json = arguments
    terms = ReferenceSpec(**json.loads(terms_json))
    torch.set_num_threads(terms.num_threads)
    exported = _load(folder, terms, revision=None)
    output, expected = answer(exported), np.load(file)
    if not np.array_equal(output.logits, expected["logits"]):
        difference = np.abs(output.logits - expected["logits"]).max()
        raise SystemExit(f"its logits differ from the pruned model's by up to {difference:.3g}")
    if not np.array_equal(output.generated, expected["generated"]):
        raise SystemExit("it generates other tokens than the pruned model")
    comparisons: list[SpeedComparison] = []
    if terms.original is not None:
        try:
            original = _load(terms.original, terms, revision=terms.revision)
            comparisons = _compare_speed(original, exported)
        except torch.OutOfMemoryError:
            comparisons = []
    Path(result).write_text(json.dumps([asdict(comparison) for comparison in comparisons]))


def _load(name: str, terms: ReferenceSpec, *, revision: str | None) -> Any:
    from transformers import AutoConfig

    common: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": terms.trust_remote_code}
    config = AutoConfig.from_pretrained(name, **common)
    model_class = class_with_head(config)
    prefixes: tuple[str, ...] = ()
    if name == terms.original:  # the exported checkpoint is loaded as users would load it
        prefixes = check_complete(name, config, name, model_class, head=True, **common)
    if terms.attention:
        common["attn_implementation"] = terms.attention
    return load_network(model_class, name, prefixes, dtype=terms.dtype, device_map=terms.device, **common).eval()


def _compare_speed(original: Any, exported: Any) -> list[SpeedComparison]:
    models = original, exported
    before, after = (sum(p.numel() * p.element_size() for p in m.parameters()) / 1e6 for m in models)
    ratio = before / after
    runs = partial(_decode, original), partial(_decode, exported)
    return [
        compare_runs("decoding", "ms/token", runs, lambda seconds: 1000 * seconds / DECODE[1]),
        SpeedComparison("memory of the weights", "MB", before, after, ratio, ratio, ratio),
    ]


def _decode(network: Any) -> float:
    """Generate some tokens and return the seconds that it took."""
    ids = torch.full((DECODE[0], 16), 5, device=network.device)
    generate = partial(
        network.generate,
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=DECODE[1],
        min_new_tokens=DECODE[1],
        do_sample=False,
        use_cache=True,
    )
    with torch.inference_mode():
        return timed(generate, network.device)


if __name__ == "__main__":
    _main(sys.argv[1:])
