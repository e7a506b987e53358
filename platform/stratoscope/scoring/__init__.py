"""Scoring: from sufficient statistics to scores, ranks and the layers to drop. Pure functions on numpy."""

from stratoscope.scoring.measures import EpsilonKind, VarianceKind, sparsity
from stratoscope.scoring.metrics import METRICS, Measures, Metric, random_scores
from stratoscope.scoring.ranking import Ranking, lowest, num_dropped, rank_layers
from stratoscope.scoring.score import Choices, Observations, Scoring, score_layers

__all__ = [
    "METRICS",
    "Choices",
    "EpsilonKind",
    "Measures",
    "Metric",
    "Observations",
    "Ranking",
    "Scoring",
    "VarianceKind",
    "lowest",
    "num_dropped",
    "random_scores",
    "rank_layers",
    "score_layers",
    "sparsity",
]
