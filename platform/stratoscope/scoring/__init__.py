"""Scoring: from sufficient statistics to scores, ranks and the layers to drop. Pure functions on numpy."""

from stratoscope.scoring.answers import (
    AnswerObservations,
    AnswerSet,
    AnswerStatistics,
    AnswerView,
    Labels,
    Part,
    ReadPart,
)
from stratoscope.scoring.dataset_tests import (
    DatasetAgreement,
    DatasetResult,
    compare_datasets,
    first_results,
    run_layer_tests,
)
from stratoscope.scoring.definitions import DEFINITIONS, Definition, Readings
from stratoscope.scoring.layer_tests import (
    FEWEST_QUESTIONS,
    Inference,
    LayerTestResult,
    TooFewQuestionsError,
    check_enough,
    find_layers,
)
from stratoscope.scoring.measures import EpsilonKind, Threshold, VarianceKind, cosine_to_angle, layer_spans, sparsity
from stratoscope.scoring.metrics import METRICS, Measures, Metric, random_scores
from stratoscope.scoring.observations import (
    Observations,
    SpanAngle,
    TapUnits,
    check_distinct,
    count_units,
    join_units,
    observe_tap,
    place_thresholds,
)
from stratoscope.scoring.ranking import Ranking, lowest, num_dropped, rank_layers
from stratoscope.scoring.regression import KeyMetric, MetricComparison, MetricKind
from stratoscope.scoring.score import Scoring, ScoringSettings, score_groups, score_layers
from stratoscope.scoring.selection import select_layers
from stratoscope.scoring.separation import Auroc
from stratoscope.scoring.separator import SeparationResult, SeparationSettings, Separator, separate_answers

__all__ = [
    "DEFINITIONS",
    "FEWEST_QUESTIONS",
    "METRICS",
    "AnswerObservations",
    "AnswerSet",
    "AnswerStatistics",
    "AnswerView",
    "Auroc",
    "DatasetAgreement",
    "DatasetResult",
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
    "Part",
    "Ranking",
    "ReadPart",
    "Readings",
    "Scoring",
    "ScoringSettings",
    "SeparationResult",
    "SeparationSettings",
    "Separator",
    "SpanAngle",
    "TapUnits",
    "Threshold",
    "TooFewQuestionsError",
    "VarianceKind",
    "check_distinct",
    "check_enough",
    "compare_datasets",
    "cosine_to_angle",
    "count_units",
    "find_layers",
    "first_results",
    "join_units",
    "layer_spans",
    "lowest",
    "num_dropped",
    "observe_tap",
    "place_thresholds",
    "random_scores",
    "rank_layers",
    "run_layer_tests",
    "score_groups",
    "score_layers",
    "select_layers",
    "separate_answers",
    "sparsity",
]
