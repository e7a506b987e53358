"""The probe: forward hooks that turn one batch into sufficient statistics per prompt, layer and tap."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from stratoscope.activations import fused
from stratoscope.activations.batch_statistics import BatchStatistics, SegmentGroups, sum_histograms
from stratoscope.activations.forward import run_backbone
from stratoscope.activations.passes import BatchLayout, Fetch, KernelPass, Pass, TokenPass
from stratoscope.activations.plan import ReadingPlan
from stratoscope.activations.reading import UNKNOWN, Term
from stratoscope.activations.reduce import DeviceBins
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
        self._bins = DeviceBins(epsilons)
        self._reading = ModelReading((UNKNOWN,) * len(model.anatomy))
        self._plan = self._make_plan()
        self._has_kernel = False
        self._handles: list[RemovableHandle] = []
        self._pass: Pass | None = None
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
        withdrawn = self._reading.withdrawn
        if set(self.taps) <= set(withdrawn):
            name, reason = type(self.model.network).__name__, withdrawn[self.taps[0]]
            raise InputError(f"{', '.join(self.taps)} cannot be read from {name}: {reason}")
        self._plan = self._make_plan()
        self._has_kernel = self._can_fuse()
        for layer in range(len(self.model.anatomy)):
            self._handles += self._hooks_of(layer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _can_fuse(self) -> bool:
        """Return whether the fused kernel can read the model, which lies on one device for that."""
        places = {parameter.device for parameter in self.model.network.parameters()}
        if len(places) > 1 or not self._plan.fits_kernel():
            return False
        return fused.available(self.model.device, self._bins.on(self.model.device))

    def _make_plan(self) -> ReadingPlan:
        return ReadingPlan.make(type(self.model.network).__name__, self._reading, self.taps, self.spans)

    def _hooks_of(self, layer: int) -> list[RemovableHandle]:
        """Set the hooks of a layer, which call the pass that runs."""
        block, plan = self.model.anatomy.blocks[layer].module, self._plan

        def read_part(term: Term, hidden: Tensor) -> None:
            self._current().read_part(layer, term, hidden)

        handles = [on_input(block, lambda hidden: self._current().enter_block(layer, hidden))]
        handles += [on_output(term.module, partial(read_part, term)) for term in plan.terms[layer]]
        if plan.has(layer, Tap.MLP_HIDDEN):
            handles += self._on_hidden(layer, lambda hidden: self._current().read_hidden(layer, hidden))
        return [*handles, on_output(block, lambda hidden: self._current().leave_block(layer, hidden))]

    def _on_hidden(self, layer: int, read: Callable[[Tensor], None]) -> list[RemovableHandle]:
        block = self._plan.blocks[layer]
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
        batching = self._batching_of(attention_mask)
        batches = split_rows(attention_mask, batching) if batching != Batching.ANY else []
        if len(batches) > 1 or (batches and not attention_mask.all()):
            apart = self._measure_apart(input_ids, attention_mask, batches, parts, forward, groups=groups)
            return lambda: apart
        ids, mask = (to_device(tensor, self.model.device) for tensor in (input_ids, attention_mask))
        if parts is None:
            # The number of tokens depends on the mask's values; if the mask is on the host, reading it makes no device
            # wait.
            host = Segments.from_mask(attention_mask)
        else:
            host = Segments.from_spans(parts, ids.shape[1], torch.device("cpu"))
        (lengths,) = to_host(host.lengths)()
        shape = (ids.shape[0], ids.shape[1])
        batch = BatchLayout(host, host.to(self.model.device), shape, lengths, groups)
        run = partial(forward or partial(run_backbone, self.model), ids, mask)
        rows = range(len(ids)) if rows is None else rows
        fetch, plan = self._run(run, batch, rows, careful=False), self._plan

        def finish() -> BatchStatistics:
            reduced = fetch()
            if not reduced.is_finite(plan.present, plan.runs):
                reduced = self._run(run, batch, rows, careful=True)()
            return reduced.unpack(self.epsilons, lengths, plan.without_mean(), grouped=groups is not None)

        return finish

    def _batching_of(self, attention_mask: Tensor) -> Batching:
        """Return the batches that the model may get of the rows of a mask."""
        scaling = self.model.scaling
        if self.batching != Batching.ANY or scaling.first_limit is None:
            return self.batching
        lengths = attention_mask.sum(dim=1).tolist()
        return Batching.EQUAL_LENGTHS if scaling.separates(lengths) else Batching.ANY

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
        """Measure a batch as several without padding, for a model whose output depends on padding or on other rows."""
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
    def _run(self, forward: Callable[[], None], batch: BatchLayout, rows: Sequence[int], *, careful: bool) -> Fetch:
        """Run the model once, and start the transfer of the sums to the host."""
        if self._has_kernel and not careful:
            current: Pass = KernelPass(self._plan, batch, self._bins)
        else:
            current = TokenPass(self._plan, batch, self._bins, careful=careful)
        self._pass, self.rows = current, rows
        try:
            forward()
            current.check_complete()
            return current.finish()
        finally:
            self._pass = None

    def _current(self) -> Pass:
        assert self._pass is not None, "a hook ran outside measure()"
        return self._pass
