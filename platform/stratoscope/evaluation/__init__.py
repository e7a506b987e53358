"""Evaluation: scores of a model on tasks of lm-evaluation-harness and on questions, and comparisons of two models."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.evaluation.bundled import BEGINNING
    from stratoscope.evaluation.comparison import (
        Comparison,
        Estimate,
        ItemValues,
        MetricKey,
        PairwiseComparison,
        Resampling,
        compare,
        compare_variants,
        group_scores,
    )
    from stratoscope.evaluation.evaluator import Evaluator, ItemScore, Slice, check_answers_fit
    from stratoscope.evaluation.generation import GenerationPrompt, TextGenerator
    from stratoscope.evaluation.grading import equals_one_of, has_word
    from stratoscope.evaluation.questions import (
        LOWER_IS_BETTER,
        QuestionEvaluator,
        Score,
        Text,
        score_question,
        validation_score,
    )
    from stratoscope.evaluation.retention import (
        Retention,
        TaskScores,
        by_task,
        likelihood_retention,
        mean_gain,
        mean_retention,
        retained,
    )
    from stratoscope.evaluation.sampling import TextSampling, sample_texts
    from stratoscope.evaluation.splits import QuestionSplit, SplitSizes, Wordings, split_questions
    from stratoscope.evaluation.tasks import (
        ItemMetric,
        ItemSampling,
        TaskItems,
        check_filters,
        choose_items,
        items_digest,
        load_tasks,
        task_names,
    )
    from stratoscope.evaluation.truncation import TruncatedPrompts

__all__ = [
    "BEGINNING",
    "LOWER_IS_BETTER",
    "Comparison",
    "Estimate",
    "Evaluator",
    "GenerationPrompt",
    "ItemMetric",
    "ItemSampling",
    "ItemScore",
    "ItemValues",
    "MetricKey",
    "PairwiseComparison",
    "QuestionEvaluator",
    "QuestionSplit",
    "Resampling",
    "Retention",
    "Score",
    "Slice",
    "SplitSizes",
    "TaskItems",
    "TaskScores",
    "Text",
    "TextGenerator",
    "TextSampling",
    "TruncatedPrompts",
    "Wordings",
    "by_task",
    "check_answers_fit",
    "check_filters",
    "choose_items",
    "compare",
    "compare_variants",
    "equals_one_of",
    "group_scores",
    "has_word",
    "items_digest",
    "likelihood_retention",
    "load_tasks",
    "mean_gain",
    "mean_retention",
    "retained",
    "sample_texts",
    "score_question",
    "split_questions",
    "task_names",
    "validation_score",
]

__getattr__ = exports(__name__)
