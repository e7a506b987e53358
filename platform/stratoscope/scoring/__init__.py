"""Scoring: from sufficient statistics to scores, ranks and the layers to drop. Pure functions on numpy."""

from stratoscope.scoring.contrast import (
    FEWEST_QUESTIONS,
    Inference,
    Labels,
    LayerTestResult,
    TooFewQuestionsError,
    check_enough,
    find_layers,
)
from stratoscope.scoring.definitions import DEFINITIONS, Definition, Readings
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
from stratoscope.scoring.regression import KeyMetric, MetricComparison, MetricKind
from stratoscope.scoring.score import Scoring, ScoringSettings, score_layers
from stratoscope.scoring.selection import select_layers
from stratoscope.scoring.separation import Auroc

__all__ = [
    "DEFINITIONS",
    "FEWEST_QUESTIONS",
    "METRICS",
    "Auroc",
    "Definition",
    "EpsilonKind",
    "Inference",
    "KeyMetric",
    "Labels",
    "LayerTestResult",
    "Measures",
    "Metric",
    "MetricComparison",
    "MetricKind",
    "Observations",
    "Ranking",
    "Readings",
    "Scoring",
    "ScoringSettings",
    "SpanAngle",
    "TapUnits",
    "Threshold",
    "TooFewQuestionsError",
    "VarianceKind",
    "check_enough",
    "count_units",
    "find_layers",
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
