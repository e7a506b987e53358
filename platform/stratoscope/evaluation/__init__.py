"""Evaluation: what a model can do, through the tasks of lm-evaluation-harness, and what is retained of it."""

from stratoscope.evaluation.evaluator import Evaluator, ItemScore, Slice
from stratoscope.evaluation.generation import GenerationPrompt, generate
from stratoscope.evaluation.grading import equals_one_of
from stratoscope.evaluation.questions import LOWER_IS_BETTER, QuestionEvaluator, Score, Text, aggregate, judge
from stratoscope.evaluation.retention import (
    Estimate,
    Resampling,
    Retention,
    TaskScores,
    by_task,
    mean_gain,
    mean_retention,
    retained,
)
from stratoscope.evaluation.tasks import ItemSampling, TaskItems, choose_items, items_digest, load_tasks, task_names

__all__ = [
    "LOWER_IS_BETTER",
    "Estimate",
    "Evaluator",
    "GenerationPrompt",
    "ItemSampling",
    "ItemScore",
    "QuestionEvaluator",
    "Resampling",
    "Retention",
    "Score",
    "Slice",
    "TaskItems",
    "TaskScores",
    "Text",
    "aggregate",
    "by_task",
    "choose_items",
    "equals_one_of",
    "generate",
    "items_digest",
    "judge",
    "load_tasks",
    "mean_gain",
    "mean_retention",
    "retained",
    "task_names",
]
