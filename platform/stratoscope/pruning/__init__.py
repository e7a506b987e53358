"""Pruning: which layers a model can do without, searched by scores and by evaluations. No Ray, no files."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.pruning.comparison import (
        RandomSetComparison,
        ScoreReader,
        TaskComparison,
        compare_by_task,
        metric_gains,
        search_gain,
        share_interval,
        tasks_at_chance,
    )
    from stratoscope.pruning.evaluation import Evaluation, ModelSize, ObjectiveFunction, evaluate_set
    from stratoscope.pruning.greedy import greedy_sets, swap_layers
    from stratoscope.pruning.scores import PERPLEXITY_DROP, compute_scores, perplexity_ratios
    from stratoscope.pruning.selection import TrialResult, choose, pareto_front, random_sets, reference_trial
    from stratoscope.pruning.space import LayerScores, LayerSet, Objective, PruningCandidate, PruningSpace, ScoreKey
    from stratoscope.pruning.speed import compare_speed

__all__ = [
    "PERPLEXITY_DROP",
    "Evaluation",
    "LayerScores",
    "LayerSet",
    "ModelSize",
    "Objective",
    "ObjectiveFunction",
    "PruningCandidate",
    "PruningSpace",
    "RandomSetComparison",
    "ScoreKey",
    "ScoreReader",
    "TaskComparison",
    "TrialResult",
    "choose",
    "compare_by_task",
    "compare_speed",
    "compute_scores",
    "evaluate_set",
    "greedy_sets",
    "metric_gains",
    "pareto_front",
    "perplexity_ratios",
    "random_sets",
    "reference_trial",
    "search_gain",
    "share_interval",
    "swap_layers",
    "tasks_at_chance",
]

__getattr__ = exports(__name__)
