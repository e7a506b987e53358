"""Activations: the taps in a block, and the probe that reduces one batch to sufficient statistics."""

from stratoscope.activations.probe import BatchStatistics, Probe, run_backbone
from stratoscope.activations.taps import Tap

__all__ = ["BatchStatistics", "Probe", "Tap", "run_backbone"]
