"""The probe: forward hooks that turn one batch into sufficient statistics per prompt, layer and tap."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from stratoscope.activations import fused
from stratoscope.activations.batch_statistics import BatchStatistics, ReducedBatch, SegmentGroups, sum_histograms
from stratoscope.activations.forward import run_backbone
from stratoscope.activations.reduce import Bins, RowLayout, TokenSums, merge_tokens, reduce_tokens, token_cosine
from stratoscope.activations.residual import UNKNOWN, Term
from stratoscope.activations.segments import Segments, Span
from stratoscope.activations.tap import Tap
from stratoscope.activations.taps import on_experts, on_input, on_output
from stratoscope.activations.trial import Batching, ModelReading, read_model, split_rows
from stratoscope.errors import InputError
from stratoscope.models import LoadedModel, to_device, to_host
from stratoscope.statistics import stack

Pending = Callable[[], BatchStatistics]
"""Waits for a batch that was started, and returns its statistics."""
Forward = Callable[[Tensor, Tensor], None]
"""Runs the model on token ids and mask, both on its device; `Probe.rows` says which rows of the batch they are."""
FUSED_TAPS = frozenset((*fused.STREAM_TAPS, Tap.MLP_HIDDEN))
"""Taps that the fused kernel can read."""
REDUCED_TOGETHER = 2048
"""Tokens, over layers and taps, reduced at a time: fewer waste time on launches, more no longer fit into caches."""


@dataclass
class _Pass:
    """Results of the hooks during one forward pass, all on the device."""

    segments: Segments
    shape: tuple[int, int]
    """Rows and positions of the batch."""
    careful: bool
    sums: TokenSums | None
    """Sums of every layer and tap, layer by layer; None where the fused kernel reduces them."""
    cosine: Tensor | None
    """Between each layer's input and output by token, shape (layers, T); None as above."""
    kernel: fused.FusedPass | None
    """Reduces a block's taps at its end, instead of the other fields."""
    groups: SegmentGroups | None = None
    """Groups of the segments, by which histograms are summed; None sums none."""
    parts: dict[Term, Tensor] = field(default_factory=dict)
    """What the parts of the running block add to the stream."""
    seen: Counter[tuple[int, Tap | Term]] = field(default_factory=Counter)
    """Number of times that each tap and term of a layer was read."""
    waiting: dict[tuple[torch.device, int], list[tuple[int, Tensor]]] = field(default_factory=dict)
    """Activations to reduce and their place among the sums, by device and width; layers are reduced together."""
    last_tokens: dict[int, Tensor] = field(default_factory=dict)
    """Last token of each segment before the layer of this number, and after the last layer."""
    source: Tensor | None = None
    """The tensor whose real tokens `entering` holds: a block's output is the next block's input."""
    entering: Tensor | None = None
    entering_norm: Tensor | None = None
    copies: dict[torch.device, Segments] = field(default_factory=dict)
    """The segments on the other devices of a model that is spread over several."""

    def segments_on(self, device: torch.device) -> Segments:
        """Return the segments on a device."""
        if device not in self.copies:
            self.copies[device] = self.segments.to(device)
        return self.copies[device]


class Probe:
    """Reads the taps of a model while it runs, as a context manager that sets and removes the hooks.

    Memory is bounded by the statistics of one batch and a limited number of activations that wait to be reduced; it
    does not grow with the number of prompts. Each batch needs one transfer from the device. A second pass over the
    batch runs only if a value in it was not finite.

    Args:
        model: the model to read.
        taps: where in each block to read.
        epsilons: absolute thresholds that are counted exactly, ascending.
        spans: (start, length) of the spans of layers whose cosine on the last token is computed.
    """

    def __init__(
        self,
        model: LoadedModel,
        taps: Sequence[Tap],
        epsilons: tuple[float, ...] = (),
        spans: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.model, self.taps, self.epsilons, self.spans = model, tuple(taps), epsilons, tuple(spans)
        self._bins = {model.device: Bins.build(epsilons, model.device)}
        self._layout = RowLayout(len(epsilons))
        self._reading = ModelReading((UNKNOWN,) * len(model.anatomy))
        self._has_kernel = False
        self._handles: list[RemovableHandle] = []
        self._pass: _Pass | None = None
        self.rows: Sequence[int] = ()
        """Numbers of the rows that run at the moment, within the measured batch."""

    @property
    def layers_read_by_difference(self) -> tuple[int, ...]:
        """Layers whose update is output minus input, because the outputs of their parts do not add up to it.

        In a number format with few bits such an update is mostly the rounding of the residual stream.
        """
        if Tap.UPDATE not in self.taps:
            return ()
        blocks = enumerate(self._reading.blocks)
        return tuple(layer for layer, block in blocks if block.runs and not block.of(Tap.UPDATE))

    @property
    def withdrawn(self) -> Mapping[Tap, str]:
        """Taps of this probe without activations in this model, with the reason."""
        return {tap: reason for tap, reason in self._reading.withdrawn.items() if tap in self.taps}

    @property
    def batching(self) -> Batching:
        """Batches that the model may get; `measure` splits others."""
        return self._reading.batching

    def __enter__(self) -> Self:
        self._reading = read_model(self.model, partial(run_backbone, self.model))
        blocks, withdrawn = self._reading.blocks, self._reading.withdrawn
        if set(self.taps) <= set(withdrawn):
            name, reason = type(self.model.network).__name__, withdrawn[self.taps[0]]
            raise InputError(f"{', '.join(self.taps)} cannot be read from {name}: {reason}")
        self._runs = np.array([block.runs for block in blocks])
        self._present = np.array([[tap not in withdrawn and block.has(tap) for tap in self.taps] for block in blocks])
        self._terms = [self._terms_of(layer) for layer in range(len(blocks))]
        self._has_kernel = self._can_fuse()
        for layer, block in enumerate(self.model.anatomy.blocks):
            self._handles += [on_input(block.module, partial(self._enter_block, layer))]
            for term in self._terms[layer]:
                self._handles.append(on_output(term.module, partial(self._read_part, layer, term)))
            if self._has(layer, Tap.MLP_HIDDEN):
                self._handles += self._on_hidden(layer, partial(self._read, layer, Tap.MLP_HIDDEN))
            self._handles.append(on_output(block.module, partial(self._leave_block, layer)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _has(self, layer: int, tap: Tap) -> bool:
        return tap in self.taps and bool(self._present[layer, self.taps.index(tap)])

    def _terms_of(self, layer: int) -> tuple[Term, ...]:
        """Return the terms of a layer that the taps need."""
        block = self._reading.blocks[layer]
        taps = [tap for tap in (Tap.UPDATE, Tap.ATTENTION, Tap.MLP) if self._has(layer, tap)]
        return tuple(dict.fromkeys(term for tap in taps for term in block.of(tap)))

    def _can_fuse(self) -> bool:
        """Return whether the fused kernel can read the model.

        It reads blocks of one shape on one device, whose token mixer and feed-forward part are added with the same
        factor and not overwritten.
        """
        places = {parameter.device for parameter in self.model.network.parameters()}
        if len(places) > 1 or not self._present.all() or not set(self.taps) <= FUSED_TAPS:
            return False
        if not all(self._fits_kernel(layer) for layer in range(len(self._terms))):
            return False
        return fused.available(self.model.device, self._bins[self.model.device])

    def _fits_kernel(self, layer: int) -> bool:
        terms, block = self._terms[layer], self._reading.blocks[layer]
        taps, factors = [term.tap for term in terms], {term.factor for term in terms}
        altered = any(term.overwritten or term.bias is not None for term in terms)
        if None in taps or len(set(taps)) < len(taps) or len(factors) > 1 or altered:
            return False
        if self._sums(layer):
            return {Tap.ATTENTION, Tap.MLP} == {term.tap for term in block.of(Tap.UPDATE)}
        return factors <= {1.0}

    def _sums(self, layer: int) -> bool:
        """Return whether the update of a layer is the sum of its terms."""
        return Tap.UPDATE in self.taps and bool(self._reading.blocks[layer].of(Tap.UPDATE))

    def _on_hidden(self, layer: int, read: Callable[[Tensor], None]) -> list[RemovableHandle]:
        block = self._reading.blocks[layer]
        if block.hidden is not None:
            return [on_input(block.hidden, read)]
        assert block.experts is not None
        return on_experts(block.experts, read)

    def measure(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        parts: Sequence[Span] | None = None,
        forward: Forward | None = None,
    ) -> BatchStatistics:
        """Run the model's layers once and return the statistics of each prompt, or of parts of prompts.

        Args:
            input_ids: token ids, shape (B, S), padded on either side.
            attention_mask: 1 for a token and 0 for padding, shape (B, S); every prompt has a token.
            parts: what to read, each a segment with statistics of its own; None reads all of each prompt.
            forward: runs the model; None runs its layers alone. It is called several times where the model may not get
                the batch as a whole, and again where values are not finite.
        """
        return self.start(input_ids, attention_mask, parts, forward)()

    def start(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        parts: Sequence[Span] | None = None,
        forward: Forward | None = None,
        *,
        rows: Sequence[int] | None = None,
        groups: SegmentGroups | None = None,
    ) -> Pending:
        """Do the same as `measure` without waiting for the device.

        Args:
            input_ids: as for `measure`.
            attention_mask: as for `measure`.
            parts: as for `measure`.
            forward: as for `measure`.
            rows: numbers of the batch's rows in a larger one, for `Probe.rows`; None counts them from 0.
            groups: groups of the segments, whose histograms are then summed; None keeps those of each segment.

        Returns:
            A function that waits and returns the statistics, to be called inside the 'with' block of the probe.
        """
        if not self._handles:
            raise RuntimeError("the probe measures inside its 'with' block alone")
        batches = split_rows(attention_mask, self.batching) if self.batching != Batching.ANY else []
        if len(batches) > 1 or (batches and not attention_mask.all()):
            apart = self._measure_apart(input_ids, attention_mask, batches, parts, forward, groups=groups)
            return lambda: apart
        ids, mask = (to_device(tensor, self.model.device) for tensor in (input_ids, attention_mask))
        if parts is None:
            # The number of tokens depends on the mask's values; if the mask is on the host, reading it makes no device
            # wait.
            segments = Segments.from_mask(attention_mask)
        else:
            segments = Segments.from_spans(parts, ids.shape[1], torch.device("cpu"))
        (lengths,) = to_host(segments.lengths)()
        host, segments = segments, segments.to(self.model.device)
        run = partial(forward or partial(run_backbone, self.model), ids, mask)
        rows = range(len(ids)) if rows is None else rows
        shape = (ids.shape[0], ids.shape[1])
        started = self._run(run, self._begin(segments, shape, host, groups), lengths, rows)

        def finish() -> BatchStatistics:
            reduced = started()
            if not reduced.is_finite(self._present, self._runs):
                again = self._begin(segments, shape, host, groups, careful=True)
                reduced = self._run(run, again, lengths, rows)()
            return reduced.unpack(self.epsilons, lengths, self._without_mean(), grouped=groups is not None)

        return finish

    def _measure_apart(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        batches: Sequence[Sequence[int]],
        parts: Sequence[Span] | None,
        forward: Forward | None,
        *,
        groups: SegmentGroups | None,
    ) -> BatchStatistics:
        """Measure a batch as several batches without padding, for a model whose output depends on padding."""
        spans = parts or [Span(row, 0, input_ids.shape[1]) for row in range(len(input_ids))]
        order: list[int] = []
        results = []
        for batch in batches:
            real = [attention_mask[row].nonzero().squeeze(1) for row in batch]
            ids = torch.stack([input_ids[row, places] for row, places in zip(batch, real, strict=True)])
            starts = {row: int(places[0]) for row, places in zip(batch, real, strict=True)}
            chosen = [i for i, span in enumerate(spans) if span.row in starts]
            order += chosen
            own = None
            if parts is not None:
                moved = [(spans[i], starts[spans[i].row]) for i in chosen]
                own = [Span(batch.index(s.row), s.start - first, s.stop - first) for s, first in moved]
            if own == []:
                if forward is not None:  # the caller predicts tokens of rows that are not read, too
                    self.start(ids, torch.ones_like(ids), [Span(0, 0, 1)], forward, rows=batch)()
                continue
            part = groups and groups.take(chosen)
            results.append(self.start(ids, torch.ones_like(ids), own, forward, rows=batch, groups=part)())
        places = np.argsort(order)
        return BatchStatistics(
            stack([result.statistics for result in results])[places],
            np.concatenate([result.span_cosine for result in results])[places],
            sum_histograms([result.group_histograms for result in results]),
        )

    @torch.inference_mode()
    def _run(
        self, forward: Callable[[], None], current: _Pass, lengths: NDArray[np.int64], rows: Sequence[int]
    ) -> Callable[[], ReducedBatch]:
        self._pass, self.rows = current, rows
        try:
            forward()
            self._check_seen(current)
            return self._finish_fused(current, lengths) if current.kernel else self._finish(current)
        finally:
            self._pass = None

    @torch.inference_mode()
    def _begin(
        self,
        segments: Segments,
        shape: tuple[int, int],
        host: Segments,
        groups: SegmentGroups | None,
        *,
        careful: bool = False,
    ) -> _Pass:
        num_layers, bins = len(self.model.anatomy), self._bins_on(self.model.device)
        if self._has_kernel and not careful:
            kernel = fused.FusedPass(self.taps, num_layers, bins, segments)
            return _Pass(segments, shape, careful, None, None, kernel, groups)
        sums = TokenSums.zeros(num_layers * len(self.taps), segments, bins)
        cosine = torch.full_like(sums.mean[:1], torch.nan).repeat(num_layers, 1)
        copies = {segments.rows.device: segments, host.rows.device: host}
        return _Pass(segments, shape, careful, sums, cosine, None, groups, copies=copies)

    def _check_seen(self, current: _Pass) -> None:
        """Check that each tap and term of each layer was read exactly once."""
        for layer, runs in enumerate(self._runs):
            expected: list[Tap | Term] = [Tap.BLOCK, *self._terms[layer]] if runs else []
            if self._has(layer, Tap.MLP_HIDDEN):
                expected.append(Tap.MLP_HIDDEN)
            counts = {key: current.seen[layer, key] for key in (expected or [Tap.BLOCK])}
            if any(count != bool(expected) for count in counts.values()):
                numbers = ", ".join(str(count) for count in counts.values())
                raise InputError(
                    f"{type(self.model.network).__name__}: the parts of layer {layer} did not run once each in this "
                    f"pass, as in the trial pass, but {numbers} times; it cannot be read"
                )

    def _finish(self, current: _Pass) -> Callable[[], ReducedBatch]:
        """Reduce what still waits, and start the transfer of the sums to the host."""
        assert current.sums is not None
        assert current.cosine is not None
        for place in list(current.waiting):
            self._reduce_waiting(place)
        rows = merge_tokens(current.sums, current.segments, self._bins_on(self.model.device))
        cosine = _mean_of_known(current.cosine, current.segments)
        spans = _span_cosine(current.last_tokens, self.spans, cosine)
        num_segments, num_layers = cosine.shape
        fetch = to_host(torch.cat([rows.reshape(num_segments, -1), cosine, spans], dim=1))
        columns = rows.shape[1] * rows.shape[2]

        def finish() -> ReducedBatch:
            (flat,) = fetch()
            packed = flat[:, :columns].reshape(num_segments, num_layers, len(self.taps), -1)
            layout = self._layout
            histogram = packed[..., layout.histogram].astype(np.int64)
            groups = current.groups
            return ReducedBatch(
                packed[..., :3],
                histogram if groups is None else groups.sum(torch.from_numpy(histogram)).numpy(),
                packed[..., layout.below].astype(np.int64),
                histogram.sum(axis=-1),
                packed[..., layout.nonfinite].astype(np.int64),
                flat[:, columns : columns + num_layers],
                flat[:, columns + num_layers :],
            )

        return finish

    def _finish_fused(self, current: _Pass, lengths: NDArray[np.int64]) -> Callable[[], ReducedBatch]:
        """Combine the kernel's partial results, and start their transfer to the host."""
        assert current.kernel is not None
        sums = current.kernel.finish()
        cosine = sums.cosine.transpose(0, 1)
        num_segments, num_layers = cosine.shape
        histogram, below = self._bins_on(self.model.device).split(sums.fine)
        rows = torch.cat([sums.moments, below.double()], dim=3).permute(2, 0, 1, 3)
        spans = _span_cosine(current.last_tokens, self.spans, cosine)
        flat = torch.cat([rows.reshape(num_segments, -1), cosine, spans], dim=1)
        by_segment = histogram.permute(2, 0, 1, 3)
        fetch = to_host(flat, by_segment if current.groups is None else current.groups.sum(by_segment))
        columns, widths = rows[0].numel(), sums.widths

        def finish() -> ReducedBatch:
            flat_host, histogram_host = fetch()
            packed = flat_host[:, :columns].reshape(num_segments, num_layers, len(self.taps), -1)
            count = lengths[:, None, None] * widths
            return ReducedBatch(
                packed[..., :3],
                histogram_host,
                packed[..., 3:].astype(np.int64),
                count,
                np.zeros_like(count),
                flat_host[:, columns : columns + num_layers],
                flat_host[:, columns + num_layers :],
            )

        return finish

    def _enter_block(self, layer: int, hidden: Tensor) -> None:
        current = self._current()
        if current.source is not hidden:
            self._record_residual(hidden)
        if self.spans and layer not in current.last_tokens:
            self._store_last_token(layer)

    def _leave_block(self, layer: int, hidden: Tensor) -> None:
        current = self._current()
        current.seen[layer, Tap.BLOCK] += 1
        if current.kernel:
            before = current.source
            assert before is not None
            self._check_shape(hidden)
            parts = {term.tap: current.parts[term] for term in self._terms[layer]}
            factor = self._terms[layer][0].factor if self._sums(layer) else None
            attention, mlp = parts.get(Tap.ATTENTION), parts.get(Tap.MLP)
            current.kernel.read_block(layer, before, hidden, attention=attention, mlp=mlp, factor=factor)
            self._record_residual(hidden)
        else:
            self._reduce_block(layer, hidden)
        current.parts.clear()
        if self.spans:
            self._store_last_token(layer + 1)

    def _reduce_block(self, layer: int, hidden: Tensor) -> None:
        current = self._current()
        before, norm_before = current.entering, current.entering_norm
        assert before is not None
        assert norm_before is not None
        self._record_residual(hidden)
        after, norm_after = current.entering, current.entering_norm
        assert after is not None
        assert norm_after is not None
        assert current.cosine is not None
        before, norm_before = before.to(after.device), norm_before.to(after.device)
        current.cosine[layer] = token_cosine(before, after, norm_before, norm_after)
        for tap in (Tap.ATTENTION, Tap.MLP):
            if self._has(layer, tap):
                self._reduce(layer, tap, self._contribution(self._reading.blocks[layer].of(tap), after))
        if self._has(layer, Tap.BLOCK):
            self._reduce(layer, Tap.BLOCK, after)
        if self._has(layer, Tap.UPDATE):
            self._reduce(layer, Tap.UPDATE, self._update(layer, before, after))

    def _update(self, layer: int, before: Tensor, after: Tensor) -> Tensor:
        """Return what the block's parts add to the stream, in float."""
        terms = self._reading.blocks[layer].of(Tap.UPDATE)
        if not terms:
            return after - before
        parts = [self._current().parts[term].to(after) for term in terms]
        return sum(parts[1:], parts[0])

    def _contribution(self, terms: Sequence[Term], like: Tensor) -> Tensor:
        """Return the sum of what some terms add to the stream."""
        parts = [self._current().parts[term] for term in terms]
        return parts[0] if len(parts) == 1 else sum((part.to(like) for part in parts[1:]), parts[0].to(like))

    def _read_part(self, layer: int, term: Term, hidden: Tensor) -> None:
        """Read what one part adds to the stream."""
        current = self._current()
        current.seen[layer, term] += 1
        if current.kernel:
            current.parts[term] = hidden
            return
        x = current.segments_on(hidden.device).take(self._by_token(hidden))
        if term.factor != 1.0:
            x = x.float() * term.factor
        elif term.overwritten:
            x = x.clone()
        if term.bias is not None:
            x = x + term.bias.to(x)
        current.parts[term] = x

    def _read(self, layer: int, tap: Tap, hidden: Tensor) -> None:
        current = self._current()
        current.seen[layer, tap] += 1
        if current.kernel:
            current.kernel.read_hidden(layer, hidden)
        else:
            self._reduce(layer, tap, current.segments_on(hidden.device).take(hidden))

    def _by_token(self, hidden: Tensor) -> Tensor:
        """Concatenate the streams of a token, shape (B, S, n, D), into one wide stream."""
        return hidden.flatten(2) if hidden.ndim > 3 else hidden

    def _check_shape(self, hidden: Tensor) -> None:
        shape = self._current().shape
        if hidden.ndim < 3 or tuple(hidden.shape[:2]) != shape:
            raise InputError(
                f"{type(self.model.network).__name__}: the hidden states have shape {tuple(hidden.shape)} for a batch "
                f"of shape {shape}, so they cannot be assigned to tokens"
            )

    def _reduce(self, layer: int, tap: Tap, x: Tensor) -> None:
        """Queue the activations of a tap, (T, D), and reduce the queue once it holds `REDUCED_TOGETHER` tokens."""
        place = (x.device, x.shape[1])
        waiting = self._current().waiting.setdefault(place, [])
        waiting.append((layer * len(self.taps) + self.taps.index(tap), x))
        if len(waiting) * x.shape[0] >= REDUCED_TOGETHER:
            self._reduce_waiting(place)

    def _reduce_waiting(self, place: tuple[torch.device, int]) -> None:
        current, device = self._current(), place[0]
        assert current.sums is not None
        places, activations = zip(*current.waiting.pop(place), strict=True)
        x = torch.stack(activations) if len(activations) > 1 else activations[0].unsqueeze(0)
        segments, bins = current.segments_on(device), self._bins_on(device)
        sums = reduce_tokens(x, segments, bins, careful=current.careful)
        current.sums.put(places, sums)

    def _bins_on(self, device: torch.device) -> Bins:
        if device not in self._bins:
            self._bins[device] = Bins.build(self.epsilons, device)
        return self._bins[device]

    def _record_residual(self, hidden: Tensor) -> None:
        """Remember the residual stream at this point: its real tokens in float, and their norms."""
        current = self._current()
        current.source = hidden
        if current.kernel:
            return
        self._check_shape(hidden)
        x = current.segments_on(hidden.device).take(self._by_token(hidden))
        x = x.double() if current.careful else x.float()
        current.entering = x
        current.entering_norm = torch.linalg.vector_norm(x, dim=1)

    def _store_last_token(self, layer: int) -> None:
        current = self._current()
        assert current.source is not None
        segments = current.segments_on(current.source.device)
        last = segments.take_last(self._by_token(current.source)).double()
        current.last_tokens[layer] = last.to(self.model.device)

    def _current(self) -> _Pass:
        assert self._pass is not None, "a hook ran outside measure()"
        return self._pass

    def _without_mean(self) -> NDArray[np.bool_]:
        """Return where tokens have no common mean because each was routed to its own experts, shape (L, K)."""
        mixtures = np.array([block.experts is not None for block in self._reading.blocks])
        without: NDArray[np.bool_] = mixtures[:, None] & np.array([tap == Tap.MLP_HIDDEN for tap in self.taps])
        return without


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
