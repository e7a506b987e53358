"""Reading of one forward pass: what the probe's hooks call, and the sums of the pass.

`TokenPass` reads every model with torch operations. `KernelPass` reads the taps of a block at its end with the fused
kernel, for models whose blocks the kernel can read.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stratoscope.activations import fused
from stratoscope.activations.batch_statistics import ReducedBatch, SegmentGroups
from stratoscope.activations.plan import ReadingPlan
from stratoscope.activations.reading import Term
from stratoscope.activations.reduce import (
    DeviceBins,
    RowLayout,
    TokenSums,
    merge_tokens,
    reduce_tokens,
    token_cosine,
)
from stratoscope.activations.segments import Segments
from stratoscope.activations.tap import Tap
from stratoscope.errors import InputError
from stratoscope.models import to_host

Fetch = Callable[[], ReducedBatch]
"""Waits for the sums of a pass, and returns them on the host."""
REDUCED_TOGETHER = 2048
"""Tokens, over layers and taps, reduced at a time: fewer waste time on launches, more no longer fit into caches."""


@dataclass(frozen=True, eq=False)
class BatchLayout:
    """Which tokens of a batch are read."""

    host: Segments
    """The segments on the host."""
    segments: Segments
    """The segments on the model's first device."""
    shape: tuple[int, int]
    """Rows and positions of the batch."""
    lengths: NDArray[np.int64]
    """Tokens of each segment."""
    groups: SegmentGroups | None = None
    """Groups of the segments, by which histograms are summed; None sums none."""

    @property
    def device(self) -> torch.device:
        """The model's first device, which gets all sums."""
        return self.segments.rows.device


class Pass(ABC):
    """Reads one forward pass. All results stay on the device until they are fetched.

    Args:
        plan: what is read from each layer.
        batch: which tokens are read.
        bins: where magnitudes are counted.
    """

    def __init__(self, plan: ReadingPlan, batch: BatchLayout, bins: DeviceBins) -> None:
        self._plan, self._batch, self._bins = plan, batch, bins
        self._copies = {batch.device: batch.segments, batch.host.rows.device: batch.host}
        self._source: Tensor | None = None
        """The residual stream at this point: a block's output is the next block's input."""
        self._parts: dict[Term, Tensor] = {}
        """What the parts of the running block add to the stream."""
        self._seen: Counter[tuple[int, Tap | Term]] = Counter()
        """Number of times that each tap and term of a layer was read."""
        self._last_tokens: dict[int, Tensor] = {}
        """Last token of each segment before the layer of this number, and after the last layer."""

    def enter_block(self, layer: int, hidden: Tensor) -> None:
        """Read the input of a block."""
        if self._source is not hidden:
            self._record_residual(hidden)
        if self._plan.spans and layer not in self._last_tokens:
            self._store_last_token(layer)

    def read_part(self, layer: int, term: Term, hidden: Tensor) -> None:
        """Read what one part adds to the stream."""
        self._seen[layer, term] += 1
        self._parts[term] = self._contribution_of(term, hidden)

    def read_hidden(self, layer: int, hidden: Tensor) -> None:
        """Read the tap `mlp_hidden`."""
        self._seen[layer, Tap.MLP_HIDDEN] += 1
        self._reduce_hidden(layer, hidden)

    def leave_block(self, layer: int, hidden: Tensor) -> None:
        """Read the output of a block, and reduce its taps."""
        self._seen[layer, Tap.BLOCK] += 1
        self._reduce_block(layer, hidden)
        self._parts.clear()
        if self._plan.spans:
            self._store_last_token(layer + 1)

    def check_complete(self) -> None:
        """Check that each tap and term of each layer was read exactly once.

        Raises:
            InputError: a part ran several times, or not at all.
        """
        plan = self._plan
        for layer, runs in enumerate(plan.runs):
            expected: list[Tap | Term] = [Tap.BLOCK, *plan.terms[layer]] if runs else []
            if plan.has(layer, Tap.MLP_HIDDEN):
                expected.append(Tap.MLP_HIDDEN)
            counts = {key: self._seen[layer, key] for key in (expected or [Tap.BLOCK])}
            if any(count != bool(expected) for count in counts.values()):
                numbers = ", ".join(str(count) for count in counts.values())
                raise InputError(
                    f"{plan.model}: the parts of layer {layer} did not run once each in this pass, as in the trial "
                    f"pass, but {numbers} times; it cannot be read"
                )

    @abstractmethod
    def finish(self) -> Fetch:
        """Combine the sums, and start their transfer to the host."""

    @abstractmethod
    def _contribution_of(self, term: Term, hidden: Tensor) -> Tensor:
        """Return what a term adds to the stream, in the form that `_reduce_block` needs."""

    @abstractmethod
    def _reduce_hidden(self, layer: int, hidden: Tensor) -> None:
        """Reduce the tap `mlp_hidden`."""

    @abstractmethod
    def _reduce_block(self, layer: int, hidden: Tensor) -> None:
        """Reduce the taps of a block that has ended, and record its output."""

    def _record_residual(self, hidden: Tensor) -> None:
        """Remember the residual stream at this point."""
        self._source = hidden

    def _segments_on(self, device: torch.device) -> Segments:
        """Return the segments on a device; a model may be spread over several."""
        if device not in self._copies:
            self._copies[device] = self._batch.segments.to(device)
        return self._copies[device]

    def _store_last_token(self, layer: int) -> None:
        assert self._source is not None
        segments = self._segments_on(self._source.device)
        last = segments.take_last(_by_token(self._source)).double()
        self._last_tokens[layer] = last.to(self._batch.device)

    def _check_shape(self, hidden: Tensor) -> None:
        shape = self._batch.shape
        if hidden.ndim < 3 or tuple(hidden.shape[:2]) != shape:
            raise InputError(
                f"{self._plan.model}: the hidden states have shape {tuple(hidden.shape)} for a batch of shape {shape}, "
                "so they cannot be assigned to tokens"
            )


class TokenPass(Pass):
    """Reads a pass with torch operations.

    Args:
        plan: what is read from each layer.
        batch: which tokens are read.
        bins: where magnitudes are counted.
        careful: leave out values that are not finite, and compute in float64.
    """

    def __init__(self, plan: ReadingPlan, batch: BatchLayout, bins: DeviceBins, *, careful: bool) -> None:
        super().__init__(plan, batch, bins)
        num_layers = len(plan.blocks)
        self._careful = careful
        self._sums = TokenSums.zeros(num_layers * len(plan.taps), batch.segments, bins.on(batch.device))
        """Sums of every layer and tap, layer by layer."""
        self._cosine = torch.full_like(self._sums.mean[:1], torch.nan).repeat(num_layers, 1)
        """Between each layer's input and output by token, shape (layers, T)."""
        self._waiting: dict[tuple[torch.device, int], list[tuple[int, Tensor]]] = {}
        """Activations to reduce and their place among the sums, by device and width; layers are reduced together."""
        self._stream: Tensor | None = None
        """Real tokens of the residual stream at this point, shape (T, D), in float."""
        self._stream_norm: Tensor | None = None

    def finish(self) -> Fetch:
        """Reduce what still waits, combine the sums, and start their transfer to the host."""
        for place in list(self._waiting):
            self._reduce_waiting(place)
        batch, plan = self._batch, self._plan
        rows = merge_tokens(self._sums, batch.segments, self._bins.on(batch.device))
        cosine = _mean_of_known(self._cosine, batch.segments)
        spans = _span_cosine(self._last_tokens, plan.spans, cosine)
        num_segments, num_layers = cosine.shape
        fetch = to_host(torch.cat([rows.reshape(num_segments, -1), cosine, spans], dim=1))
        columns, layout = rows.shape[1] * rows.shape[2], RowLayout(len(self._bins.epsilons))

        def reduced() -> ReducedBatch:
            (flat,) = fetch()
            packed = flat[:, :columns].reshape(num_segments, num_layers, len(plan.taps), -1)
            histogram = packed[..., layout.histogram].astype(np.int64)
            groups = batch.groups
            return ReducedBatch(
                packed[..., :3],
                histogram if groups is None else groups.sum(torch.from_numpy(histogram)).numpy(),
                packed[..., layout.below].astype(np.int64),
                histogram.sum(axis=-1),
                packed[..., layout.nonfinite].astype(np.int64),
                flat[:, columns : columns + num_layers],
                flat[:, columns + num_layers :],
            )

        return reduced

    def _record_residual(self, hidden: Tensor) -> None:
        """Remember the residual stream at this point: its real tokens in float, and their norms."""
        super()._record_residual(hidden)
        self._check_shape(hidden)
        x = self._segments_on(hidden.device).take(_by_token(hidden))
        x = x.double() if self._careful else x.float()
        if self._plan.overwrites:
            # Without padding and in float32, x is still the memory that the next block writes into.
            x = x.clone()
        self._stream, self._stream_norm = x, torch.linalg.vector_norm(x, dim=1)

    def _contribution_of(self, term: Term, hidden: Tensor) -> Tensor:
        x = self._segments_on(hidden.device).take(_by_token(hidden))
        if term.factor != 1.0:
            x = x.float() * term.factor
        elif term.overwritten:
            x = x.clone()
        return x if term.bias is None else x + term.bias.to(x)

    def _reduce_hidden(self, layer: int, hidden: Tensor) -> None:
        self._reduce(layer, Tap.MLP_HIDDEN, self._segments_on(hidden.device).take(hidden))

    def _reduce_block(self, layer: int, hidden: Tensor) -> None:
        before, norm_before = self._recorded_stream()
        self._record_residual(hidden)
        after, norm_after = self._recorded_stream()
        before, norm_before = before.to(after.device), norm_before.to(after.device)
        self._cosine[layer] = token_cosine(before, after, norm_before, norm_after)
        for tap in (Tap.ATTENTION, Tap.MLP):
            if self._plan.has(layer, tap):
                self._reduce(layer, tap, self._sum_of(self._plan.blocks[layer].of(tap), after))
        if self._plan.has(layer, Tap.BLOCK):
            self._reduce(layer, Tap.BLOCK, after)
        if self._plan.has(layer, Tap.UPDATE):
            self._reduce(layer, Tap.UPDATE, self._update(layer, before, after))

    def _recorded_stream(self) -> tuple[Tensor, Tensor]:
        assert self._stream is not None
        assert self._stream_norm is not None
        return self._stream, self._stream_norm

    def _update(self, layer: int, before: Tensor, after: Tensor) -> Tensor:
        """Return what the block's parts add to the stream, in float."""
        terms = self._plan.blocks[layer].of(Tap.UPDATE)
        if not terms:
            return after - before
        parts = [self._parts[term].to(after) for term in terms]
        return sum(parts[1:], parts[0])

    def _sum_of(self, terms: Sequence[Term], like: Tensor) -> Tensor:
        """Return the sum of what some terms add to the stream."""
        parts = [self._parts[term] for term in terms]
        return parts[0] if len(parts) == 1 else sum((part.to(like) for part in parts[1:]), parts[0].to(like))

    def _reduce(self, layer: int, tap: Tap, x: Tensor) -> None:
        """Queue the activations of a tap, (T, D), and reduce the queue once it holds `REDUCED_TOGETHER` tokens."""
        taps, place = self._plan.taps, (x.device, x.shape[1])
        waiting = self._waiting.setdefault(place, [])
        waiting.append((layer * len(taps) + taps.index(tap), x))
        if len(waiting) * x.shape[0] >= REDUCED_TOGETHER:
            self._reduce_waiting(place)

    def _reduce_waiting(self, place: tuple[torch.device, int]) -> None:
        device = place[0]
        places, activations = zip(*self._waiting.pop(place), strict=True)
        x = torch.stack(activations) if len(activations) > 1 else activations[0].unsqueeze(0)
        sums = reduce_tokens(x, self._segments_on(device), self._bins.on(device), careful=self._careful)
        self._sums.put(places, sums)


class KernelPass(Pass):
    """Reads a pass with the fused kernel, on one device.

    Args:
        plan: what is read from each layer; the kernel can read it.
        batch: which tokens are read.
        bins: where magnitudes are counted.
    """

    def __init__(self, plan: ReadingPlan, batch: BatchLayout, bins: DeviceBins) -> None:
        super().__init__(plan, batch, bins)
        self._kernel = fused.FusedPass(plan.taps, len(plan.blocks), bins.on(batch.device), batch.segments)

    def finish(self) -> Fetch:
        """Combine the kernel's partial results, and start their transfer to the host."""
        batch, plan = self._batch, self._plan
        sums = self._kernel.finish()
        cosine = sums.cosine.transpose(0, 1)
        num_segments, num_layers = cosine.shape
        histogram, below = self._bins.on(batch.device).split(sums.fine)
        rows = torch.cat([sums.moments, below.double()], dim=3).permute(2, 0, 1, 3)
        spans = _span_cosine(self._last_tokens, plan.spans, cosine)
        flat = torch.cat([rows.reshape(num_segments, -1), cosine, spans], dim=1)
        by_segment = histogram.permute(2, 0, 1, 3)
        fetch = to_host(flat, by_segment if batch.groups is None else batch.groups.sum(by_segment))
        columns, widths = rows[0].numel(), sums.widths

        def reduced() -> ReducedBatch:
            flat_host, histogram_host = fetch()
            packed = flat_host[:, :columns].reshape(num_segments, num_layers, len(plan.taps), -1)
            count = batch.lengths[:, None, None] * widths
            return ReducedBatch(
                packed[..., :3],
                histogram_host,
                packed[..., 3:].astype(np.int64),
                count,
                np.zeros_like(count),
                flat_host[:, columns : columns + num_layers],
                flat_host[:, columns + num_layers :],
            )

        return reduced

    def _contribution_of(self, _term: Term, hidden: Tensor) -> Tensor:
        # The kernel takes the tokens, and multiplies by the factor, when the block ends.
        return hidden

    def _reduce_hidden(self, layer: int, hidden: Tensor) -> None:
        self._kernel.read_hidden(layer, hidden)

    def _reduce_block(self, layer: int, hidden: Tensor) -> None:
        before, terms = self._source, self._plan.terms[layer]
        assert before is not None
        self._check_shape(hidden)
        parts = {term.tap: self._parts[term] for term in terms}
        factor = terms[0].factor if self._plan.update_is_sum(layer) else None
        attention, mlp = parts.get(Tap.ATTENTION), parts.get(Tap.MLP)
        self._kernel.read_block(layer, before, hidden, attention=attention, mlp=mlp, factor=factor)
        self._record_residual(hidden)


def _by_token(hidden: Tensor) -> Tensor:
    """Concatenate the streams of a token, shape (B, S, n, D), into one wide stream."""
    return hidden.flatten(2) if hidden.ndim > 3 else hidden


def _mean_of_known(values: Tensor, segments: Segments) -> Tensor:
    """Average token values over each segment, leaving out those that are not finite: (L, T) becomes (B, L)."""
    known = values.isfinite()
    return (segments.sum(torch.where(known, values, 0.0)) / segments.sum(known.double())).transpose(0, 1)


def _span_cosine(stored: Mapping[int, Tensor], spans: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Return the cosine across each span of layers, shape (B, spans), on the device of `like`, shape (B, ...).

    Where a layer does not run, the last token before it is the last token after it.
    """
    if not spans:
        return like.new_zeros(len(like), 0, dtype=torch.float64)
    last_tokens = dict(stored)
    for layer in range(max(start + length for start, length in spans)):
        last_tokens.setdefault(layer + 1, last_tokens.get(layer, stored[min(stored)]))
    last_tokens.setdefault(0, stored[min(stored)])
    pairs = [(last_tokens[start], last_tokens[start + length]) for start, length in spans]
    return torch.stack([torch.nn.functional.cosine_similarity(a, b, dim=1) for a, b in pairs], dim=1)
