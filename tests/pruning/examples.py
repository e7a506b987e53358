"""Evaluations and scores that tests are built from."""

import math
from collections.abc import Sequence

import numpy as np

from stratoscope.evaluation import Estimate, TaskScores
from stratoscope.pruning import Evaluation


def evaluation(
    raw: float, dropped: tuple[int, ...] = (), above_chance: float = math.nan, bits: float = math.nan
) -> Evaluation:
    above = Estimate(above_chance, above_chance, above_chance)
    return Evaluation(dropped, {}, Estimate(raw, raw, raw), above, bits, 0.0)


def task_scores(values: Sequence[float], first: int = 0) -> TaskScores:
    """Scores of a multiple-choice task; items are numbered from `first`."""
    missing = np.full(len(values), np.nan)
    ids = tuple(f"{first + i:03d}" for i in range(len(values)))
    return TaskScores(ids, np.array(values, float), np.ones(len(values)), missing, missing, missing)
