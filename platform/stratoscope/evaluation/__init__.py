"""Evaluation: what a model can do, through the tasks of lm-evaluation-harness, and what is retained of it."""

from stratoscope.evaluation.evaluator import Evaluator, ItemScore, Slice
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
from stratoscope.evaluation.tasks import Choice, TaskItems, choose_items, load_tasks, task_names

__all__ = [
    "Choice",
    "Estimate",
    "Evaluator",
    "ItemScore",
    "Resampling",
    "Retention",
    "Slice",
    "TaskItems",
    "TaskScores",
    "by_task",
    "choose_items",
    "load_tasks",
    "mean_gain",
    "mean_retention",
    "retained",
    "task_names",
]
