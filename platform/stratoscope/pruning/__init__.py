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
    from stratoscope.pruning.greedy import SetEvaluator, greedy_sets, swap_layers
    from stratoscope.pruning.named_strategies import (
        FROM_SCORES,
        STRATEGY_NAMES,
        StrategyName,
        StrategySettings,
        least_budget,
        make_strategy,
    )
    from stratoscope.pruning.scores import PERPLEXITY_DROP, compute_scores, perplexity_ratios
    from stratoscope.pruning.selection import (
        TrialResult,
        best_objectives,
        choose,
        pareto_front,
        random_sets,
        reference_trial,
    )
    from stratoscope.pruning.space import LayerScores, LayerSet, Objective, PruningCandidate, PruningSpace, ScoreKey
    from stratoscope.pruning.speed import compare_speed
    from stratoscope.pruning.strategies import EvaluatedSet, best_sets, best_so_far, run_strategy

__all__ = [
    "FROM_SCORES",
    "PERPLEXITY_DROP",
    "STRATEGY_NAMES",
    "EvaluatedSet",
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
    "SetEvaluator",
    "StrategyName",
    "StrategySettings",
    "TaskComparison",
    "TrialResult",
    "best_objectives",
    "best_sets",
    "best_so_far",
    "choose",
    "compare_by_task",
    "compare_speed",
    "compute_scores",
    "evaluate_set",
    "greedy_sets",
    "least_budget",
    "make_strategy",
    "metric_gains",
    "pareto_front",
    "perplexity_ratios",
    "random_sets",
    "reference_trial",
    "run_strategy",
    "search_gain",
    "share_interval",
    "swap_layers",
    "tasks_at_chance",
]

__getattr__ = exports(__name__)
