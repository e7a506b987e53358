"""What a network shows of each prompt in a plain forward pass, without the package's anatomy."""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.models import zoo
from tests.models.outcomes import REFUSED, RIGHT, Cell
from tests.models.trace import LayerTrace, Tracer, hidden_output, token_rows

LENGTHS = (11, 5, 19)
"""Tokens of the prompts; no size inside a model is one of them."""
READ_TOLERANCE, PART_TOLERANCE = 1e-5, 1e-4


def make_prompts(network: Any) -> list[Tensor]:
    """Return prompts of different lengths for a network."""
    sizes = [zoo.VOCABULARY]
    with contextlib.suppress(NotImplementedError, AttributeError):
        sizes.append(network.get_input_embeddings().num_embeddings)
    return [torch.randint(4, min(sizes), (n,), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]


def padded(prompts: Sequence[Tensor], side: str, filler: int = 0) -> tuple[Tensor, Tensor]:
    """Return ids and mask of prompts padded on a side."""
    longest = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), longest), filler)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(0, len(prompt)) if side == "right" else slice(longest - len(prompt), longest)
        ids[row, place], mask[row, place] = prompt, 1
    return ids, mask


class Truth:
    """What a network shows of each prompt that runs alone, without mask, padding or cache."""

    def __init__(self, network: Any, prompts: Sequence[Tensor], *, last: bool = False) -> None:
        self.network, self.prompts, self.last = network, prompts, last
        self.path, self.layers = self._find_layers()
        self.traces: list[list[LayerTrace]] = []
        if self.layers:
            for prompt in prompts:
                with torch.no_grad(), Tracer(network, self.layers, len(prompt), last=last) as tracer:
                    self._plain(prompt)
                self.traces.append(tracer.traces)

    def _plain(self, prompt: Tensor) -> None:
        extra = {"use_cache": False} if _takes(self.network, "use_cache") else {}
        self.network(input_ids=prompt.unsqueeze(0), **extra)

    def _find_layers(self) -> tuple[str, list[nn.Module]]:
        """Return the outermost list of the text's layers: of the right length, in which some layer runs on text."""
        ran: set[nn.Module] = set()
        handles = [m.register_forward_hook(lambda m, _a, _o: ran.add(m)) for m in self.network.modules()]
        with torch.no_grad():
            self._plain(self.prompts[0])
        for handle in handles:
            handle.remove()
        fitting = {
            path: list(module)
            for path, module in self.network.named_modules()
            if isinstance(module, nn.ModuleList)
            and len(module) == zoo.NUM_LAYERS
            and any(layer in ran for layer in module)
            and all(list(layer.children()) for layer in module)
        }
        outermost = {p: m for p, m in fitting.items() if not any(p.startswith(f"{q}.") for q in fitting if q != p)}
        if len(outermost) > 1:
            outermost = {p: m for p, m in outermost.items() if "decoder" in p} or outermost
        if not outermost:
            return "", []
        return next(iter(outermost.items()))

    def padded_alike(self, side: str) -> Cell:
        """See whether the network itself computes the same for a prompt in a padded batch as for the prompt alone."""
        ids, mask = padded(self.prompts, side)
        extra: dict[str, Any] = {"use_cache": False, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        extra = {name: value for name, value in extra.items() if _takes(self.network, name)}
        seen: list[Tensor] = []
        layer = next(layer for layer, trace in zip(self.layers, self.traces[0], strict=True) if trace.after is not None)
        handle = layer.register_forward_hook(lambda _m, _a, output: seen.append(hidden_output(output).clone()))
        try:
            with torch.no_grad():
                self.network(input_ids=ids, attention_mask=mask, **extra)
        finally:
            handle.remove()
        place = self.layers.index(layer)
        for row, prompt in enumerate(self.prompts):
            expected = token_rows(self.traces[row][place].after, len(prompt))
            batch = seen[0]
            if batch.ndim != 3 or batch.shape[:2] != ids.shape:
                return Cell(REFUSED, f"its hidden states have shape {tuple(batch.shape)}")
            got = batch[row][mask[row].bool()]
            if not torch.allclose(got, expected, rtol=0, atol=1e-4 * float(expected.abs().max())):
                return Cell(REFUSED, "a prompt that is padded gives other numbers than alone")
        return Cell(RIGHT)

    def describe(self) -> list[str]:
        """Return, for each layer, how its residual path looks and what its parts are."""
        if not self.layers:
            return ["no list of layers runs on text"]
        texts = []
        for layer, trace in zip(self.layers, self.traces[0], strict=True):
            parts = ", ".join(f"{part.kind} {part.scope}" for part in reversed(trace.parts))
            shape = "" if trace.after is None or trace.after.ndim == 3 else f" shape {tuple(trace.after.shape)}"
            texts.append(f"{type(layer).__name__} {trace.path}{shape}: {parts}")
        return texts

    def compare(self, tap: str, prompt: int, layer: int, got: tuple[float, float, float], tolerance: float) -> str:
        """Return what is wrong with (count, mean, m2) of a tap, '' for nothing, 'null' for no numbers."""
        trace, rows = self.traces[prompt][layer], len(self.prompts[prompt])
        null = got[0] == 0 or got[1] != got[1]
        if trace.after is None:
            return "" if null else f"count {got[0]:g} of a layer that did not run"
        if null:
            return "" if tap in {"attention", "mlp", "mlp_hidden"} and not self._has(tap, trace) else "null"
        wanted = list(self._expected(tap, trace, rows))
        if not wanted:
            return (
                f"numbers, and nothing can be told ({trace.path})"
                if "sum" not in trace.path
                else f"numbers, and there is no {tap}"
            )
        apart = [distance_from(got, values) for values in wanted]
        return "" if min(apart) <= tolerance else f"{min(apart):.2g} apart, count {got[0]:g} ({wanted[0].numel()})"

    @staticmethod
    def _has(tap: str, trace: LayerTrace) -> bool:
        kind = "mixer" if tap == "attention" else "mlp"
        return any(part.kind == kind for part in trace.parts) or not trace.parts

    def _expected(self, tap: str, trace: LayerTrace, rows: int) -> Iterator[Tensor]:
        after = token_rows(trace.after, rows, last=self.last)
        if tap == "block":
            yield after
        elif tap == "update":
            yield after - token_rows(trace.before, rows, last=self.last)
        else:
            kind = "mixer" if tap == "attention" else "mlp"
            parts = [part for part in trace.parts if part.kind == kind]
            if not parts:
                return
            if tap == "mlp_hidden":
                hidden = [h for part in parts for h in part.hidden]
                yield torch.cat([h.reshape(-1) for _, h in hidden])
                for scope in dict.fromkeys(scope for scope, _ in hidden):
                    if "expert" in scope and "shared" not in scope:
                        yield torch.cat([h.reshape(-1) for s, h in hidden if s == scope])
                return
            yield torch.stack([part.value for part in parts]).sum(0)
            if kind == "mixer":
                first = max(part.group for part in parts)
                yield torch.stack([part.value for part in parts if part.group == first]).sum(0)


def distance_from(got: tuple[float, float, float], values: Tensor) -> float:
    x = values.double()
    if got[0] != x.numel():
        return float("inf")
    mean, m2 = float(x.mean()), float((x - x.mean()).square().sum())
    rms = float(x.square().mean().sqrt()) or 1.0
    return max(abs(got[1] - mean) / rms, abs(got[2] - m2) / (m2 or 1.0))


def _takes(network: nn.Module, name: str) -> bool:
    return name in inspect.signature(network.forward).parameters
