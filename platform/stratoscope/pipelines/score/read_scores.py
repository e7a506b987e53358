"""The scorings of a run as they stand in its tables."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.pipelines.score.tables import ALL
from stratoscope.results import Storage, read_table

KEYS = ("metric", "tap", "variance", "epsilon_kind", "epsilon")


@dataclass(frozen=True)
class ScoredLayers:
    """One scoring, as it stands in the tables; arrays are in order of layers."""

    metric: str
    tap: str | None
    variance: str | None
    epsilon_kind: str | None
    epsilon: float | None
    score: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    rank: NDArray[np.int64]
    normalized: NDArray[np.float64]
    split_half: float | None

    @property
    def label(self) -> str:
        """Name of the scoring with what tells it from the others."""
        parts = [self.metric, self.tap]
        if self.variance == "pooled":
            parts.append("pooled")
        if self.epsilon is not None:
            parts.append(f"epsilon {self.epsilon:.3g}")
        return ", ".join(part for part in parts if part)

    @property
    def order(self) -> list[int]:
        """Layers from the least to the most important."""
        return [int(layer) for layer in np.argsort(self.rank)]


def read_scorings(storage: Storage, group: str = ALL) -> Iterator[ScoredLayers]:
    """Yield the scorings of a group in the order in which they were asked for."""
    scores = _of_group(read_table(storage, "layer_scores"), group)
    for stability in _of_group(read_table(storage, "stability"), group).to_pylist():
        chosen = scores
        for key in KEYS:
            value = stability[key]
            same = pc.is_null(chosen[key]) if value is None else pc.equal(chosen[key], value)
            chosen = chosen.filter(same)
        yield ScoredLayers(
            **{key: stability[key] for key in KEYS},
            score=_floats(chosen["score"]),
            low=_floats(chosen["ci_low"]),
            high=_floats(chosen["ci_high"]),
            rank=chosen["rank"].to_numpy(),
            normalized=_floats(chosen["normalized"]),
            split_half=stability["split_half"],
        )


def _of_group(table: pa.Table, group: str) -> pa.Table:
    return table.filter(pc.equal(table["group"], group))


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values
