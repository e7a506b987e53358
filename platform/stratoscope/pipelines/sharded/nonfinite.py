"""Layers whose activations are not finite, read from a table of statistics."""

from collections import defaultdict

import pyarrow.compute as pc

from stratoscope.results import Storage, iter_table


def nonfinite_layers(storage: Storage, table: str) -> dict[str, list[int]]:
    """Return the layers with activations that are NaN or infinite, by tap.

    Args:
        storage: the files of a run.
        table: name of its table of statistics.
    """
    layers: dict[str, set[int]] = defaultdict(set)
    for part in iter_table(storage, table):
        faulty = part.filter(pc.greater(part["nonfinite"], 0))
        for tap, layer in zip(faulty["tap"].to_pylist(), faulty["layer"].to_pylist(), strict=True):
            layers[tap].add(layer)
    return {tap: sorted(of_tap) for tap, of_tap in sorted(layers.items())}
