"""Scoring: from sufficient statistics to scores, ranks and the layers to drop. Pure functions on numpy."""

from stratoscope.scoring.measures import EpsilonKind, Threshold, VarianceKind, sparsity
from stratoscope.scoring.metrics import METRICS, Measures, Metric, random_scores
from stratoscope.scoring.observations import (
    Observations,
    SpanAngle,
    TapUnits,
    count_units,
    join_units,
    observe_tap,
    place_thresholds,
)
from stratoscope.scoring.ranking import Ranking, lowest, num_dropped, rank_layers
from stratoscope.scoring.score import Choices, Scoring, score_layers
from stratoscope.scoring.selection import select_layers

__all__ = [
    "METRICS",
    "Choices",
    "EpsilonKind",
    "Measures",
    "Metric",
    "Observations",
    "Ranking",
    "Scoring",
    "SpanAngle",
    "TapUnits",
    "Threshold",
    "VarianceKind",
    "count_units",
    "join_units",
    "lowest",
    "num_dropped",
    "observe_tap",
    "place_thresholds",
    "random_scores",
    "rank_layers",
    "score_layers",
    "select_layers",
    "sparsity",
]
