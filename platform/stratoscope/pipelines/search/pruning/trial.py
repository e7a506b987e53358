"""One trial: a candidate becomes a set of layers, and the set is evaluated, rung by rung."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stratoscope.execution import Service
from stratoscope.pipelines.search.config import Objective
from stratoscope.pipelines.search.pruning.worker import Evaluation
from stratoscope.pruning.space import LayerScores, PruningSpace, ScoreKey

WORST = -1e9
"""Of a set that has no objective."""


@dataclass(frozen=True)
class ObjectiveFunction:
    """What is to be improved."""

    objective: Objective
    keep: float | None
    """Where size counts too, in one number: how much is to be kept."""

    def of(self, outcome: Evaluation, share_dropped: float) -> float:
        """Return what is to be large: the objective or, of sets that keep enough, the share that they drop."""
        value = {
            "retention_raw": outcome.raw.value,
            "retention_above_chance": outcome.above_chance.value,
            "bits_per_byte": -outcome.bits_per_byte,
        }[self.objective]
        if math.isnan(value):
            return WORST
        if self.keep is None:
            return value
        return share_dropped if value >= self.keep else value - self.keep


@dataclass(frozen=True)
class PruningTrial:
    """Runs trials in processes of their own; the model is elsewhere."""

    service: str
    space: PruningSpace
    scores: Mapping[ScoreKey, LayerScores]
    num_layers: int
    num_rungs: int
    stops_early: bool
    """Report after each rung; otherwise once, after the last."""
    goal: ObjectiveFunction

    def __call__(self, config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Yield what a trial reports."""
        dropped = self.space.candidate(config).dropped(self.scores, self.num_layers)
        service = Service(self.service)
        for rung in range(1, self.num_rungs + 1) if self.stops_early else [self.num_rungs]:
            outcome: Evaluation = service.call("evaluate", dropped, "search", rung)
            share = len(dropped) / self.num_layers
            yield {"objective": self.goal.of(outcome, share), "kept": 1 - share, "rung": rung}
