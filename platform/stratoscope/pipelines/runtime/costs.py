"""Estimated cost of a run: computation, memory and table sizes, as a dry run prints them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import psutil
import torch

from stratoscope.errors import InputError
from stratoscope.models import ModelFacts, dtype_name, resolve_dtype
from stratoscope.pipelines.runtime.hardware import operations_per_second, usual_device

FORWARD_FLOPS = 2
"""Floating-point operations of a forward pass, per parameter and token."""
STATISTICS_ROW_BYTES = 187
"""Size on disk of a row of statistics, measured on SmolLM2 and SciQ (docs/results/benchmarks.md)."""


@dataclass(frozen=True)
class ModelCost:
    """Cost of running a language model on this machine.

    Args:
        source: name of the model, as configured.
        facts: size of the model.
        dtype: number format, as configured.
    """

    source: str
    facts: ModelFacts
    dtype: str

    def __str__(self) -> str:
        """Return the line of a dry run that describes the model."""
        device, facts = usual_device(), self.facts
        return (
            f"{self.source}: {facts.architecture}, {facts.num_layers} layers, {facts.num_parameters / 1e6:,.0f} "
            f"million parameters, {dtype_name(self.dtype, device)} on {device}"
        )

    @property
    def bytes_per_parameter(self) -> int:
        """Size of a parameter in memory."""
        return resolve_dtype(self.dtype, usual_device()).itemsize

    @property
    def weight_bytes(self) -> int:
        """Size of all weights in memory."""
        return self.facts.num_parameters * self.bytes_per_parameter

    def seconds(self, tokens: float, flops: int = FORWARD_FLOPS) -> float:
        """Return the number of seconds for a number of tokens, if all of this machine is used.

        Args:
            tokens: number of tokens.
            flops: floating-point operations per parameter and token.
        """
        return flops * self.facts.num_parameters * tokens / operations_per_second(usual_device())


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory that the processes of a run need."""

    process: float
    """Bytes of each process."""
    name: str
    """Name of the processes, in the plural if `number` is known."""
    number: int | None = None
    """Number of concurrent processes; None if it depends on the cluster."""
    shared: float = 0.0
    """Bytes that the processes of one machine share."""
    minimum: bool = False
    """Whether this is a lower bound, so that the actual peak is higher."""

    @property
    def machine(self) -> float:
        """Total bytes if all processes run on one machine."""
        return self.shared + (self.number or 1) * self.process

    def __str__(self) -> str:
        """Return the line of a dry run that describes the memory."""
        processes = self.name if self.number is None else f"of {self.number} {self.name}"
        return f"{'at least' if self.minimum else 'about'} {self.process / 1e9:,.1f} GB for each {processes}"


@dataclass(frozen=True)
class RunCost:
    """The estimated cost of a run."""

    seconds: float
    """Seconds of computation on all of this machine."""
    further_time: str
    """Additional time of the run, as the end of a sentence."""
    memory: MemoryEstimate
    rows: Mapping[str, int] = field(default_factory=dict)
    """Number of rows of each table."""
    row_bytes: int = 0
    """Size of a row on disk; 0 where it is unknown."""
    bound: Literal["", "about ", "at most "] = ""
    """Precision of the numbers of rows."""

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the lines of a dry run, as pairs of label and text."""
        if self.rows:
            tables = ", ".join(f"{number:,} in {name}.parquet" for name, number in self.rows.items())
            size = f", about {sum(self.rows.values()) * self.row_bytes / 1e6:,.1f} MB" if self.row_bytes else ""
            yield "rows", f"{self.bound}{tables}{size}"
        yield "memory", str(self.memory)
        yield "time", f"roughly {self.seconds:,.0f} s on all of this machine, {self.further_time}"


def check_machine_memory(estimate: MemoryEstimate, work: str, advice: str) -> None:
    """Check that this machine has the memory that a run needs.

    Args:
        estimate: memory that the run needs.
        work: what needs it, for the message.
        advice: how to reduce the memory, for the message.

    Raises:
        InputError: too little memory is free.
    """
    free = psutil.virtual_memory().available
    if usual_device() == "cuda":
        free = torch.cuda.get_device_properties(0).total_memory * torch.cuda.device_count()
    if estimate.machine > free:
        raise InputError(
            f"{work} needs at least {estimate.machine / 1e9:,.1f} GB ({estimate.number or 1} {estimate.name} of "
            f"{estimate.process / 1e9:,.1f} GB) and {free / 1e9:,.1f} GB are free; {advice}"
        )
