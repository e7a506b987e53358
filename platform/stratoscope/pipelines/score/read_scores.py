"""The scorings of a finished run, read from its tables."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from stratoscope.models import resolution
from stratoscope.results import Run
from stratoscope.scoring import METRICS
from stratoscope.tables.score import ALL, LayerScoreRow, StabilityRow

NAMES = {"avss": "AVSS"}
"""Names of metrics that are spelled differently in texts than in options."""


@dataclass(frozen=True)
class ScoredLayers:
    """One scoring of a run; arrays are in order of layers, with NaN for null."""

    scoring: StabilityRow
    """Name and stability of the scoring."""
    score: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    rank: NDArray[np.int64]
    normalized: NDArray[np.float64]
    resolution: float = 0.0
    """Relative difference below which scores are indistinguishable in the number format of the activations."""

    @classmethod
    def from_rows(cls, scoring: StabilityRow, rows: Sequence[LayerScoreRow], resolution: float = 0.0) -> "ScoredLayers":
        """Return a scoring from its rows in order of layers."""
        score, low, high, normalized = np.asarray(
            [(row.score, row.ci_low, row.ci_high, row.normalized) for row in rows], float
        ).T
        return cls(scoring, score, low, high, np.asarray([row.rank for row in rows]), normalized, resolution)

    @property
    def label(self) -> str:
        """Name of the scoring, including the settings that distinguish it from others."""
        parts = [self.scoring.metric, self.scoring.tap]
        if self.scoring.variance == "pooled":
            parts.append("pooled")
        if self.scoring.epsilon is not None:
            parts.append(f"epsilon {self.scoring.epsilon:.3g}")
        return ", ".join(part for part in parts if part)

    @property
    def name(self) -> str:
        """Metric and tap as shown in texts, such as 'AVSS (update)'."""
        metric = NAMES.get(self.scoring.metric, self.scoring.metric.replace("_", " "))
        return f"{metric} ({self.scoring.tap})" if self.scoring.tap else metric

    @property
    def from_prompts(self) -> bool:
        """Whether the metric depends on the prompts, as one that is no longer registered is taken to do."""
        return self.scoring.metric not in METRICS or METRICS[self.scoring.metric].from_prompts

    def overlapping(self, count: int) -> set[int]:
        """Return the lowest layers whose interval overlaps that of any layer that is not among the lowest.

        Args:
            count: number of the lowest layers.
        """
        lowest, others = np.flatnonzero(self.rank < count), np.flatnonzero(self.rank >= count)
        starts = np.maximum(self.low[lowest, None], self.low[others])
        ends = np.minimum(self.high[lowest, None], self.high[others])
        return {int(layer) for layer in lowest[(starts <= ends).any(axis=1)]}

    @property
    def order(self) -> list[int]:
        """Layers from the least to the most important."""
        return [int(layer) for layer in np.argsort(self.rank)]

    @property
    def ties(self) -> list[bool]:
        """Whether each layer except the first is tied with the previous one, starting from the least important."""
        if not self.from_prompts:
            return [False] * (len(self.rank) - 1)  # not computed from activations
        score = self.score[self.order]
        larger = np.maximum(np.abs(score[1:]), np.abs(score[:-1]))
        return [bool(tied) for tied in np.abs(np.diff(score)) < self.resolution * larger]

    def listing(self, count: int) -> str:
        """Return the layers from the least to the most important. Ties are joined by =; | follows the first `count`."""
        first, *others = self.order
        text = str(first)
        for place, (layer, tied) in enumerate(zip(others, self.ties, strict=True), start=1):
            text += ("=" if tied else " ") + ("| " if place == count else "") + str(layer)
        return text

    def lowest(self, count: int) -> str:
        """Return the lowest layers in numerical order, followed by further layers that are tied with them."""
        lowest = " ".join(map(str, sorted(self.order[:count])))
        end = count
        while 0 < end < len(self.order) and self.ties[end - 1]:
            end += 1
        tied = " ".join(map(str, sorted(self.order[count:end])))
        return f"{lowest} (tied with {tied})" if tied else lowest


def read_scorings(run: Run, group: str = ALL) -> Iterator[ScoredLayers]:
    """Yield the scorings of a group of prompts in the order of the configuration."""
    layer_scores, stability = (
        table.filter(pc.equal(table["group"], group)) for table in map(run.table, ("layer_scores", "stability"))
    )
    rows = defaultdict(list)
    for row in LayerScoreRow.read(layer_scores):
        rows[row.scoring].append(row)
    for scoring in StabilityRow.read(stability):
        yield ScoredLayers.from_rows(scoring, rows[scoring.scoring], resolution(run.manifest.facts.get("dtype", "")))
