"""Activations: the taps in a block, and the probe that reduces one batch to sufficient statistics."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.activations.batch_statistics import BatchStatistics, SegmentGroups
    from stratoscope.activations.forward import measure_rate, run_backbone, run_head
    from stratoscope.activations.probe import Probe
    from stratoscope.activations.segments import Span
    from stratoscope.activations.tap import Tap
    from stratoscope.activations.trial import Batching

__all__ = [
    "BatchStatistics",
    "Batching",
    "Probe",
    "SegmentGroups",
    "Span",
    "Tap",
    "measure_rate",
    "run_backbone",
    "run_head",
]

__getattr__ = exports(__name__)
