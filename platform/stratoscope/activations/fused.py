"""The probe's reductions on a GPU: each tap is read once, in one kernel launch for all taps of a block of equal width.

`reduce` does the same in torch operations. It is the reference. It also serves CPUs, blocks that the kernel cannot
read, and the careful second pass after a non-finite value. The counts of both are exactly equal; the moments differ by
float32 rounding.
"""

import functools
import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stratoscope.activations.reduce import HIGHEST_KEY, LOWEST_KEY, Bins
from stratoscope.activations.segments import Segments
from stratoscope.activations.tap import Tap

STREAM_TAPS = (Tap.BLOCK, Tap.UPDATE, Tap.ATTENTION, Tap.MLP)
"""Taps as wide as the residual stream; one launch reads them all."""
MOST_FINE = 640
"""Fine bins that the kernel has room for."""
BUSY = 1536
"""Programs that keep a large GPU busy."""
STAGED_BYTES = 4 * 2**20
"""Approximate size of the partial results that are collected before one launch combines them, to save launches."""


class Tiling(NamedTuple):
    """How the kernel divides its work; it changes the results only by float32 rounding."""

    rows: int
    """Tokens of a tile."""
    columns: int
    """Columns of a tile."""
    tokens: int
    """Tokens of a program."""
    chunks: int
    """Number of times that a program reads its tokens, each time for other columns."""
    stages: int
    """Number of tiles that are fetched ahead, plus one; 1 fetches none ahead."""
    warps: int


class FusedSums(NamedTuple):
    """Results of one pass; all but the widths are on the device."""

    moments: Tensor
    """Mean, squared deviations and pooled variance, shape (layers, taps, N, 3), float64."""
    fine: Tensor
    """Counts by fine bin, shape (layers, taps, N, num_fine), int32."""
    cosine: Tensor
    """Mean cosine between a layer's input and output, shape (layers, N), float64."""
    widths: NDArray[np.int64]
    """Activations of a token, shape (layers, taps)."""


def available(device: torch.device, bins: Bins) -> bool:
    """Return whether tensors on a device can be reduced by the kernel: on NVIDIA's GPUs, or under the interpreter.

    Counts are 32-bit integers, so a prompt must have less than 2^31 activations at a layer and tap.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if bins.num_fine > MOST_FINE:
        return False
    return (device.type == "cuda" or (interpreted and device.type == "cpu")) and _has_triton()


@functools.cache
def _has_triton() -> bool:
    """Return whether Triton and the C compiler that it needs to build kernel launchers are installed."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return importlib.util.find_spec("triton") is not None and bool(compiler) and torch.version.hip is None


@functools.cache
def _kernels() -> Any:
    from stratoscope.activations import kernels

    return kernels


def choose_tiling(width: int, num_taps: int, num_tokens: int) -> Tiling:
    """Choose the tiles, by measurements of three models on an H200.

    A program with one warp needs no barrier. With 256 columns it uses few enough registers for other programs to run
    beside it.

    Args:
        width: of the activations.
        num_taps: read in one launch.
        num_tokens: of the batch.
    """
    if num_taps == 1 and width >= 4096:
        return Tiling(rows=1, columns=512, tokens=64, chunks=1, stages=2, warps=1)
    columns = min(256, 1 << (width - 1).bit_length())
    programs = _ceil(num_tokens, 64) * _ceil(width, columns)
    return Tiling(rows=1, columns=columns, tokens=64 if programs >= BUSY else 32, chunks=1, stages=3, warps=1)


@dataclass
class _Stage:
    """Partial results of some layers that are still to be combined, for activations of one width."""

    width: int
    tiling: Tiling
    capacity: int
    vectors: Tensor
    moments: Tensor
    products: Tensor
    layers: Tensor
    places: Tensor
    used: int = 0


@dataclass
class FusedPass:
    """Reduces the activations of one pass, layer by layer; nothing here waits for the device."""

    taps: tuple[Tap, ...]
    num_layers: int
    bins: Bins
    segments: Segments
    tilings: dict[int, Tiling] = field(default_factory=dict)
    """Tilings by width that replace those of `choose_tiling`."""

    def __post_init__(self) -> None:
        device, num_segments = self.segments.lengths.device, len(self.segments)
        self._starts, self._lengths, self._firsts = self.segments.bounds()
        self._stream_taps = tuple(tap for tap in STREAM_TAPS if tap in self.taps)
        shape = (self.num_layers, len(self.taps), num_segments)
        self._fine = torch.zeros(*shape, self.bins.num_fine, dtype=torch.int32, device=device)
        self._moments = torch.empty(*shape, 3, dtype=torch.float64, device=device)
        self._cosine = torch.empty(self.num_layers, num_segments, dtype=torch.float64, device=device)
        self._widths = np.zeros((self.num_layers, len(self.taps)), np.int64)
        self._stages: dict[tuple[int, bool], _Stage] = {}

    def read_block(
        self,
        layer: int,
        before: Tensor,
        after: Tensor,
        *,
        attention: Tensor | None,
        mlp: Tensor | None,
        factor: float | None,
    ) -> None:
        """Reduce the taps of a block that are as wide as the residual stream, and the cosine across the block.

        Args:
            layer: number of the layer.
            before: the block's input, shape (..., D), contiguous or not.
            after: its output.
            attention: output of attention, if it is needed.
            mlp: output of the feed-forward part, if it is needed.
            factor: factor by which the block multiplies both; None if they do not add up to the update.
        """
        stage = self._stage(after.shape[-1], stream=True)
        self._widths[layer, [self.taps.index(tap) for tap in self._stream_taps]] = stage.width
        places = {tap: self._place(tap) for tap in STREAM_TAPS}
        self._observe(stage, layer, (after, before, attention, mlp), places, factor)

    def read_hidden(self, layer: int, hidden: Tensor) -> None:
        """Reduce the tap `mlp_hidden`, shape (..., D)."""
        stage = self._stage(hidden.shape[-1], stream=False)
        self._widths[layer, self._place(Tap.MLP_HIDDEN)] = stage.width
        places = dict.fromkeys(STREAM_TAPS, -1) | {Tap.BLOCK: self._place(Tap.MLP_HIDDEN)}
        self._observe(stage, layer, (hidden, None, None, None), places, None)

    def finish(self) -> FusedSums:
        """Combine the remaining partial results and return the sums."""
        for stage in self._stages.values():
            self._join(stage)
        self._stages.clear()
        return FusedSums(self._moments, self._fine, self._cosine, self._widths)

    def _place(self, tap: Tap) -> int:
        return self.taps.index(tap) if tap in self.taps else -1

    def _observe(
        self,
        stage: _Stage,
        layer: int,
        tensors: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
        places: dict[Tap, int],
        factor: float | None,
    ) -> None:
        after, before, attention, mlp = (tensors[0] if t is None else t for t in tensors)
        tiling, num_segments, parts = stage.tiling, len(self.segments), self._parts(stage.tiling)
        summed = factor is not None and places[Tap.UPDATE] >= 0
        programs = num_segments * parts * _ceil(stage.width, tiling.columns * tiling.chunks)
        _kernels().observe_kernel[(programs,)](
            after.contiguous(),
            before.contiguous(),
            attention.contiguous(),
            mlp.contiguous(),
            self._starts,
            self._lengths,
            self._firsts,
            self._fine,
            stage.vectors,
            stage.moments,
            stage.products,
            stage.layers,
            layer,
            stage.used,
            parts,
            self._num_tokens,
            1.0 if factor is None else factor,
            stage.width,
            num_segments,
            BLOCK=places[Tap.BLOCK],
            UPDATE=places[Tap.UPDATE],
            ATTENTION=places[Tap.ATTENTION],
            MLP=places[Tap.MLP],
            SUM=summed,
            SCALED=factor not in {None, 1.0},
            COSINE=tensors[1] is not None,
            TAPS=len(self.taps),
            NUM_FINE=self.bins.num_fine,
            EDGES=self.bins.edges,
            NUM_EDGES=len(self.bins.edges),
            LOWEST=LOWEST_KEY,
            HIGHEST=HIGHEST_KEY,
            ROWS=tiling.rows,
            COLUMNS=tiling.columns,
            TOKENS=tiling.tokens,
            CHUNKS=tiling.chunks,
            STAGES=tiling.stages,
            SHARED=after.is_cuda,
            num_warps=tiling.warps,
        )
        stage.used += 1
        if stage.used == stage.capacity:
            self._join(stage)

    def _join(self, stage: _Stage) -> None:
        if stage.used == 0:
            return
        own_taps, has_cosine = len(stage.places), stage.products.numel() > 0
        _kernels().finish_kernel[(len(self.segments), stage.used, own_taps + has_cosine)](
            stage.vectors,
            stage.moments,
            stage.products,
            stage.layers,
            self._lengths,
            self._firsts,
            stage.places,
            self._fine,
            self._moments,
            self._cosine,
            self._parts(stage.tiling),
            self._num_tokens,
            stage.width,
            len(self.segments),
            TAPS=len(self.taps),
            OWN_TAPS=own_taps,
            COSINE=has_cosine,
            NUM_FINE=self.bins.num_fine,
            COLUMNS=stage.tiling.columns,
            TOKENS=stage.tiling.tokens,
            num_warps=4,
        )
        stage.used = 0

    @property
    def _num_tokens(self) -> int:
        return len(self.segments.rows)

    def _parts(self, tiling: Tiling) -> int:
        return _ceil(self.segments.longest, tiling.tokens)

    def _stage(self, width: int, *, stream: bool) -> _Stage:
        if (width, stream) not in self._stages:
            self._stages[width, stream] = self._new_stage(width, stream=stream)
        return self._stages[width, stream]

    def _new_stage(self, width: int, *, stream: bool) -> _Stage:
        own = self._stream_taps if stream else (Tap.MLP_HIDDEN,)
        tiling = self.tilings.get(width) or choose_tiling(width, len(own), self._num_tokens)
        chunks, parts = _ceil(width, tiling.columns), self._parts(tiling)
        num_programs = len(own) * len(self.segments) * parts
        num_products = self._num_tokens * chunks * 3 if stream else 0
        floats = num_programs * (width + 2 * chunks) + num_products
        capacity = min(max(STAGED_BYTES // (4 * floats), 1), self.num_layers)
        device = self._fine.device
        new = functools.partial(torch.empty, dtype=torch.float32, device=device)
        return _Stage(
            width,
            tiling,
            capacity,
            vectors=new(capacity * num_programs * width),
            moments=new(capacity * num_programs * chunks * 2),
            products=new(capacity * num_products),
            layers=torch.empty(capacity, dtype=torch.int32, device=device),
            places=_places(tuple(self.taps.index(tap) for tap in own), device),
        )


@functools.cache
def _places(places: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(places, dtype=torch.int32, device=device)


def _ceil(number: int, size: int) -> int:
    return -(-number // size)
