"""The probe: forward hooks that turn one batch into sufficient statistics per prompt, layer and tap."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from stratoscope.activations import fused
from stratoscope.activations.reduce import Bins, RowLayout, TokenSums, merge_tokens, reduce_tokens, token_cosine
from stratoscope.activations.residual import UNKNOWN, Residual, find_residuals
from stratoscope.activations.segments import Segments, Span
from stratoscope.activations.taps import Tap, on_experts, on_input, on_output
from stratoscope.errors import InputError
from stratoscope.models import Block, LoadedModel, first_position
from stratoscope.statistics import Statistics

Forward = Callable[[Tensor, Tensor], None]
"""Runs a model on token ids and attention mask, shape (B, S) each, on its device."""
REDUCED_TOGETHER = 2048
"""Tokens, over layers and taps, reduced at a time: few would be lost to the cost of operations, many to caches."""


@dataclass(frozen=True, eq=False)
class BatchStatistics:
    """What the probe tells of one batch."""

    statistics: Statistics
    """Shape (segments, layers, taps); a segment is a prompt, unless parts of rows were asked for."""
    span_cosine: NDArray[np.float64]
    """Cosine of the last token before and behind each span of layers, shape (segments, spans)."""


@dataclass(frozen=True, eq=False)
class _Reduced:
    """A batch's sums on the host: B segments, L layers, K taps."""

    moments: NDArray[np.float64]
    """Mean, squared deviations and pooled variance, shape (B, L, K, 3)."""
    histogram: NDArray[np.int64]
    """Shape (B, L, K, NUM_BINS)."""
    below: NDArray[np.int64]
    """Shape (B, L, K, epsilons)."""
    count: NDArray[np.int64]
    """Finite activations, shape (B, L, K)."""
    nonfinite: NDArray[np.int64]
    """Shape (B, L, K)."""
    cosine: NDArray[np.float64]
    """Shape (B, L)."""
    spans: NDArray[np.float64]
    """Shape (B, spans)."""

    @property
    def is_finite(self) -> bool:
        """Whether nothing that was read made a sum infinite, or no number."""
        return bool(np.isfinite(self.moments).all() and np.isfinite(self.cosine).all())


@dataclass
class _Pass:
    """What the hooks gather during one forward pass; all of it stays on the device."""

    segments: Segments
    careful: bool
    sums: TokenSums | None
    """Sums of every layer and tap, layer by layer; None where the fused kernel reduces them."""
    cosine: Tensor | None
    """Between each layer's input and output by token, shape (layers, T); None as above."""
    kernel: fused.FusedPass | None
    """Reduces a block's taps at its end, in place of all else here."""
    parts: dict[Tap, Tensor] = field(default_factory=dict)
    """What attention and the feed-forward part of the block that runs have put out."""
    waiting: dict[tuple[torch.device, int], list[tuple[int, Tensor]]] = field(default_factory=dict)
    """Activations to reduce and their place among the sums, by device and width; layers' are reduced together."""
    last_tokens: list[Tensor] = field(default_factory=list)
    source: Tensor | None = None
    """The tensor of which `entering` holds the real tokens: a block's output is the next block's input."""
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

    Memory grows with the statistics of one batch, and by a bounded number of activations that wait to be reduced, never
    with the prompts seen. There is one transfer from the device
    per batch, and a second pass over the batch only if something in it was not finite.

    Args:
        model: the model to read.
        taps: where in each block to read.
        epsilons: absolute thresholds that are counted exactly, ascending.
        spans: (start, length) of the spans of layers whose cosine on the last token is asked for.
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
        self._residuals: tuple[Residual, ...] = (UNKNOWN,) * len(model.anatomy)
        self._has_kernel = False
        self._handles: list[RemovableHandle] = []
        self._pass: _Pass | None = None

    @property
    def layers_read_by_difference(self) -> tuple[int, ...]:
        """Layers whose update is output minus input, for what their parts put out does not add up to it.

        In a number format with few bits such an update is mostly the rounding of the residual stream.
        """
        if Tap.UPDATE not in self.taps:
            return ()
        return tuple(layer for layer, residual in enumerate(self._residuals) if residual.factor is None)

    def __enter__(self) -> Self:
        if not {Tap.UPDATE, Tap.ATTENTION, Tap.MLP}.isdisjoint(self.taps):
            self._residuals = find_residuals(self.model, partial(run_backbone, self.model))
        self._has_kernel = self._can_fuse()
        for layer, block in enumerate(self.model.anatomy.blocks):
            self._handles += [on_input(block.module, self._enter_block)]
            for tap, module in ((Tap.ATTENTION, block.attention), (Tap.MLP, block.mlp)):
                if tap in self.taps or self._sums_parts(layer):
                    self._handles.append(on_output(module, partial(self._read_part, layer, tap)))
            if Tap.MLP_HIDDEN in self.taps:
                self._handles += self._on_hidden(block, partial(self._read, layer, Tap.MLP_HIDDEN))
            self._handles.append(on_output(block.module, partial(self._leave_block, layer)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _can_fuse(self) -> bool:
        """Tell whether the fused kernel can read the model: one device, and nothing is written over before it reads."""
        places = {parameter.device for parameter in self.model.network.parameters()}
        rewrites = any(residual.rewrites for residual in self._residuals)
        return len(places) == 1 and not rewrites and fused.available(self.model.device, self._bins[self.model.device])

    def _sums_parts(self, layer: int) -> bool:
        return Tap.UPDATE in self.taps and self._residuals[layer].factor is not None

    def _on_hidden(self, block: Block, read: Callable[[Tensor], None]) -> list[RemovableHandle]:
        if block.mlp_output is not None:
            return [on_input(block.mlp_output, read)]
        if block.experts is None or not block.has_gated_experts:
            raise InputError(f"tap mlp_hidden cannot be read from {type(block.module).__name__}; leave it out")
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
            forward: runs the model on ids and mask; None runs its layers alone.
        """
        if not self._handles:
            raise RuntimeError("the probe measures inside its 'with' block alone")
        ids, mask = input_ids.to(self.model.device), attention_mask.to(self.model.device)
        if parts is None:
            # How many tokens there are depends on the mask's values: where the mask lies on the host, no device waits.
            segments = Segments.from_mask(attention_mask)
        else:
            segments = Segments.from_spans(parts, ids.shape[1], torch.device("cpu"))
        (lengths,) = _to_host(segments.lengths)
        segments = segments.to(self.model.device)
        run = forward or partial(run_backbone, self.model)
        reduced = self._run(partial(run, ids, mask), segments, lengths, careful=False)
        if not reduced.is_finite:
            reduced = self._run(partial(run, ids, mask), segments, lengths, careful=True)
        return self._unpack(reduced, lengths)

    @torch.inference_mode()
    def _run(
        self, forward: Callable[[], None], segments: Segments, lengths: NDArray[np.int64], *, careful: bool
    ) -> _Reduced:
        self._pass = gathered = self._begin(segments, careful)
        try:
            forward()
            return self._finish_fused(gathered, lengths) if gathered.kernel else self._finish(gathered)
        finally:
            self._pass = None

    def _begin(self, segments: Segments, careful: bool) -> _Pass:
        num_layers, bins = len(self.model.anatomy), self._bins_on(self.model.device)
        if self._has_kernel and not careful:
            return _Pass(segments, careful, None, None, fused.FusedPass(self.taps, num_layers, bins, segments))
        sums = TokenSums.empty(num_layers * len(self.taps), segments, bins)
        return _Pass(segments, careful, sums, sums.mean.new_empty(num_layers, len(segments.rows)), None)

    def _finish(self, gathered: _Pass) -> _Reduced:
        """Reduce what still waits, and bring the sums to the host at once."""
        assert gathered.sums is not None
        assert gathered.cosine is not None
        for place in list(gathered.waiting):
            self._reduce_waiting(place)
        rows = merge_tokens(gathered.sums, gathered.segments, self._bins_on(self.model.device))
        cosine = _mean_of_known(gathered.cosine, gathered.segments)
        spans = _span_cosine(gathered.last_tokens, self.spans, cosine)
        num_segments, num_layers = cosine.shape
        (flat,) = _to_host(torch.cat([rows.reshape(num_segments, -1), cosine, spans], dim=1))
        columns = rows.shape[1] * rows.shape[2]
        packed = flat[:, :columns].reshape(num_segments, num_layers, len(self.taps), -1)
        layout = self._layout
        histogram = packed[..., layout.histogram].astype(np.int64)
        return _Reduced(
            packed[..., :3],
            histogram,
            packed[..., layout.below].astype(np.int64),
            histogram.sum(axis=-1),
            packed[..., layout.nonfinite].astype(np.int64),
            flat[:, columns : columns + num_layers],
            flat[:, columns + num_layers :],
        )

    def _finish_fused(self, gathered: _Pass, lengths: NDArray[np.int64]) -> _Reduced:
        """Join what the kernel has left, and bring it to the host."""
        assert gathered.kernel is not None
        sums = gathered.kernel.finish()
        cosine = sums.cosine.transpose(0, 1)
        num_segments, num_layers = cosine.shape
        histogram, below = self._bins_on(self.model.device).split(sums.fine)
        rows = torch.cat([sums.moments, below.double()], dim=3).permute(2, 0, 1, 3)
        spans = _span_cosine(gathered.last_tokens, self.spans, cosine)
        flat = torch.cat([rows.reshape(num_segments, -1), cosine, spans], dim=1)
        flat_host, histogram_host = _to_host(flat, histogram.permute(2, 0, 1, 3))
        columns = rows[0].numel()
        packed = flat_host[:, :columns].reshape(num_segments, num_layers, len(self.taps), -1)
        count = lengths[:, None, None] * sums.widths
        return _Reduced(
            packed[..., :3],
            histogram_host,
            packed[..., 3:].astype(np.int64),
            count,
            np.zeros_like(count),
            flat_host[:, columns : columns + num_layers],
            flat_host[:, columns + num_layers :],
        )

    def _enter_block(self, hidden: Tensor) -> None:
        gathered = self._gathering()
        if gathered.source is hidden:
            return
        self._record_residual(hidden)
        if self.spans and not gathered.last_tokens:
            self._keep_last_token()

    def _leave_block(self, layer: int, hidden: Tensor) -> None:
        gathered = self._gathering()
        if gathered.kernel:
            before = gathered.source
            assert before is not None
            attention, mlp = (gathered.parts.pop(tap, None) for tap in (Tap.ATTENTION, Tap.MLP))
            factor = self._residuals[layer].factor
            gathered.kernel.read_block(layer, before, hidden, attention=attention, mlp=mlp, factor=factor)
            self._record_residual(hidden)
        else:
            self._reduce_block(layer, hidden)
        if self.spans:
            self._keep_last_token()

    def _reduce_block(self, layer: int, hidden: Tensor) -> None:
        gathered = self._gathering()
        before, norm_before = gathered.entering, gathered.entering_norm
        assert before is not None
        assert norm_before is not None
        self._record_residual(hidden)
        after, norm_after = gathered.entering, gathered.entering_norm
        assert after is not None
        assert norm_after is not None
        assert gathered.cosine is not None
        before, norm_before = before.to(after.device), norm_before.to(after.device)
        gathered.cosine[layer] = token_cosine(before, after, norm_before, norm_after)
        if Tap.BLOCK in self.taps:
            self._reduce(layer, Tap.BLOCK, after)
        if Tap.UPDATE in self.taps:
            self._reduce(layer, Tap.UPDATE, self._update(layer, before, after))

    def _update(self, layer: int, before: Tensor, after: Tensor) -> Tensor:
        """Return what the block's parts add to the stream, in float."""
        parts = self._gathering().parts
        if not self._sums_parts(layer):
            return after - before
        attention, mlp = (parts.pop(tap).to(after) for tap in (Tap.ATTENTION, Tap.MLP))
        return attention + mlp

    def _read_part(self, layer: int, tap: Tap, hidden: Tensor) -> None:
        """Read what attention or the feed-forward part adds to the stream."""
        gathered, residual = self._gathering(), self._residuals[layer]
        if gathered.kernel:
            gathered.parts[tap] = hidden
            return
        x = gathered.segments_on(hidden.device).take(hidden)
        if residual.factor not in {None, 1.0}:
            x = x.float() * residual.factor
        elif residual.rewrites:
            x = x.clone()
        if self._sums_parts(layer):
            gathered.parts[tap] = x
        if tap in self.taps:
            self._reduce(layer, tap, x)

    def _read(self, layer: int, tap: Tap, hidden: Tensor) -> None:
        gathered = self._gathering()
        if gathered.kernel:
            gathered.kernel.read_hidden(layer, hidden)
        else:
            self._reduce(layer, tap, gathered.segments_on(hidden.device).take(hidden))

    def _reduce(self, layer: int, tap: Tap, x: Tensor) -> None:
        """Reduce the activations of a tap, (T, D), as soon as enough wait to make it worth its while."""
        place = (x.device, x.shape[1])
        waiting = self._gathering().waiting.setdefault(place, [])
        waiting.append((layer * len(self.taps) + self.taps.index(tap), x))
        if len(waiting) * x.shape[0] >= REDUCED_TOGETHER:
            self._reduce_waiting(place)

    def _reduce_waiting(self, place: tuple[torch.device, int]) -> None:
        gathered, device = self._gathering(), place[0]
        assert gathered.sums is not None
        places, activations = zip(*gathered.waiting.pop(place), strict=True)
        x = torch.stack(activations) if len(activations) > 1 else activations[0].unsqueeze(0)
        segments, bins = gathered.segments_on(device), self._bins_on(device)
        sums = reduce_tokens(x, segments, bins, careful=gathered.careful)
        gathered.sums.put(places, sums)

    def _bins_on(self, device: torch.device) -> Bins:
        if device not in self._bins:
            self._bins[device] = Bins.build(self.epsilons, device)
        return self._bins[device]

    def _record_residual(self, hidden: Tensor) -> None:
        """Remember the residual stream at this point: its real tokens in float, and their norms."""
        gathered = self._gathering()
        gathered.source = hidden
        if gathered.kernel:
            return
        x = gathered.segments_on(hidden.device).take(hidden)
        x = x.double() if gathered.careful else x.float()
        gathered.entering = x
        gathered.entering_norm = torch.linalg.vector_norm(x, dim=1)

    def _keep_last_token(self) -> None:
        gathered = self._gathering()
        assert gathered.source is not None
        segments = gathered.segments_on(gathered.source.device)
        kept = segments.take_last(gathered.source).double()
        gathered.last_tokens.append(kept.to(self.model.device))

    def _gathering(self) -> _Pass:
        assert self._pass is not None, "a hook ran outside measure()"
        return self._pass

    def _unpack(self, reduced: _Reduced, lengths: NDArray[np.int64]) -> BatchStatistics:
        shape = reduced.nonfinite.shape
        mean, m2, pooled_variance = np.moveaxis(reduced.moments, -1, 0)
        if Tap.MLP_HIDDEN in self.taps:
            # Which expert a token was sent to differs from token to token, so their activations have no common mean.
            mixtures = [block.experts is not None for block in self.model.anatomy.blocks]
            pooled_variance[:, mixtures, self.taps.index(Tap.MLP_HIDDEN)] = np.nan
        tokens = np.broadcast_to(lengths[:, None, None], shape).astype(np.int64)
        cosine = np.broadcast_to(reduced.cosine[:, :, None], shape)
        statistics = Statistics(
            epsilons=self.epsilons,
            prompts=(~np.isnan(pooled_variance)).astype(np.int64),
            tokens=tokens,
            count=reduced.count,
            mean=mean,
            m2=m2,
            pooled_variance=pooled_variance,
            histogram=reduced.histogram,
            below=reduced.below,
            cosine=cosine,
            cosine_tokens=np.where(np.isnan(cosine), 0, tokens),
            nonfinite=reduced.nonfinite,
        )
        return BatchStatistics(statistics, reduced.spans)


def run_backbone(model: LoadedModel, input_ids: Tensor, attention_mask: Tensor) -> None:
    """Run all layers of a model once, without its vocabulary head and without a key-value cache.

    Args:
        model: the model to run.
        input_ids: token ids on the model's device, shape (B, S), padded on either side.
        attention_mask: 1 for a token and 0 for padding, shape (B, S), on the model's device.
    """
    model.backbone(input_ids=input_ids, attention_mask=attention_mask, **_extra(model, model.backbone, attention_mask))


def run_head(model: LoadedModel, input_ids: Tensor, attention_mask: Tensor, keep: Tensor) -> Tensor:
    """Run a model once, its vocabulary head at chosen positions alone.

    Args:
        model: with its head.
        input_ids: token ids on the model's device, shape (B, S), padded on either side.
        attention_mask: 1 for a token and 0 for padding, shape (B, S), on the model's device.
        keep: true where predictions are wanted, shape (B, S), on the model's device.

    Returns:
        Logits at the kept positions in order of rows, shape (kept, vocabulary).
    """
    extra = _extra(model, model.network, attention_mask)
    output = model.network(input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=keep, **extra)
    logits: Tensor = output.logits
    return logits.reshape(-1, logits.shape[-1])


def _extra(model: LoadedModel, network: torch.nn.Module, attention_mask: Tensor) -> dict[str, object]:
    """Return what a network is told besides ids and mask, where it takes that."""
    positions = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    extra: dict[str, object] = {"position_ids": positions + first_position(model.backbone), "use_cache": False}
    accepted = inspect.signature(network.forward).parameters
    return {name: value for name, value in extra.items() if name in accepted}


def _to_host(*values: Tensor) -> tuple[NDArray[Any], ...]:
    """Copy tensors to the host, waiting for their device once.

    A tensor on the meta device has no values and becomes zeros. A pass on that device therefore checks, on a machine
    without a GPU, that no step joins tensors of two devices.
    """
    if values[0].is_cuda:
        # Pinned memory, which PyTorch keeps for the next batch, is written by the device itself.
        copies = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in values]
        for copy, value in zip(copies, values, strict=True):
            copy.copy_(value, non_blocking=True)
        torch.cuda.current_stream(values[0].device).synchronize()
        return tuple(copy.numpy() for copy in copies)
    return tuple((torch.zeros_like(v, device="cpu") if v.is_meta else v).numpy() for v in values)


def _mean_of_known(values: Tensor, segments: Segments) -> Tensor:
    """Average token values over each segment, leaving out those that are not finite: (L, T) becomes (B, L)."""
    known = values.isfinite()
    return (segments.sum(torch.where(known, values, 0.0)) / segments.sum(known.double())).transpose(0, 1)


def _span_cosine(last_tokens: Sequence[Tensor], spans: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Return the cosine across each span of layers, shape (B, spans), on the device of `like`, shape (B, ...)."""
    if not spans:
        return like.new_zeros(len(like), 0, dtype=torch.float64)
    pairs = [(last_tokens[start], last_tokens[start + length]) for start, length in spans]
    return torch.stack([torch.nn.functional.cosine_similarity(a, b, dim=1) for a, b in pairs], dim=1)
