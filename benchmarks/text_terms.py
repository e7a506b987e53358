"""Measure the terms of mitigation's loss that are computed on texts: in parts of the logits, and on all at once.

Both forms compute the likelihood and the divergence of some tokens, and their gradient. The other form is what torch's
own functions do, which hold several copies of all logits in single precision. They take turns; the median of the ratios
and the peak memory of each, in a process of its own, are printed.

usage: python benchmarks/text_terms.py [--tokens N] [--vocabulary N] [--dtype NAME] [--device NAME]
       [--threads N] [--rounds N]
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from gpu import synchronize
from torch.nn import functional

from stratoscope.mitigation import objectives
from stratoscope.models import peak_memory_bytes

Tensor = torch.Tensor
Terms = Callable[[Tensor, Tensor, Tensor], Tensor]


def in_parts(reference: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the sum of both terms, as training computes it."""
    return objectives.divergence(reference, logits) - 0.3 * objectives.token_log_likelihood(logits, tokens).sum()


def at_once(reference: Tensor, logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the sum of both terms by torch's functions over all logits."""
    target, own = (functional.log_softmax(values.float(), dim=-1) for values in (reference, logits))
    divergence = functional.kl_div(own, target, reduction="sum", log_target=True)
    return divergence + 0.3 * functional.cross_entropy(logits.float(), tokens, reduction="sum")


FORMS: dict[str, Terms] = {"parts": in_parts, "once": at_once}


def make_logits(given: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits of a reference, those of a model, and the tokens."""
    generator = torch.Generator(given.device).manual_seed(0)
    shape, dtype = (given.tokens, given.vocabulary), getattr(torch, given.dtype)
    reference, logits = (torch.randn(shape, generator=generator, device=given.device, dtype=dtype) for _ in range(2))
    tokens = torch.randint(given.vocabulary, shape[:1], generator=generator, device=given.device)
    return reference, logits.requires_grad_(True), tokens


def seconds(terms: Terms, tensors: tuple[Tensor, Tensor, Tensor]) -> float:
    """Return the time of both terms and their gradient."""
    logits = tensors[1]
    logits.grad = None
    synchronize(logits.device)
    started = time.perf_counter()
    terms(*tensors).backward()
    synchronize(logits.device)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory:
        seconds(FORMS[given.memory], make_logits(given))
        print(peak_memory_bytes())
        return
    peaks = {}
    for name in FORMS:  # before this process is large, since a child begins with its parent's peak
        command = [sys.executable, __file__, *sys.argv[1:], "--memory", name]
        peaks[name] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    tensors = make_logits(given)
    taken: dict[str, list[float]] = {name: [] for name in FORMS}
    for number in range(given.rounds + 1):
        for name, terms in FORMS.items():
            found = seconds(terms, tensors)
            if number:  # the first round warms up
                taken[name].append(found)
    for name, peak in peaks.items():
        print(f"{name}: {statistics.median(taken[name]):.2f} s, peak memory {peak / 1e9:.2f} GB")
    ratios = [a / b for a, b in zip(taken["parts"], taken["once"], strict=True)]
    print(f"in parts / at once: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
