"""Comparisons of sets of dropped layers by stored scores."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from stratoscope.evaluation import Estimate, ItemScore, Resampling, TaskScores, by_task
from stratoscope.pruning import (
    Evaluation,
    Objective,
    ObjectiveFunction,
    PruningCandidate,
    TrialResult,
    compare_by_task,
    evaluate_set,
    metric_gains,
    search_gain,
    tasks_at_chance,
)
from stratoscope.pruning.evaluation import WORST, join_slices
from tests.pruning.examples import evaluation, task_scores

RESAMPLING = Resampling(200, 0.95, 0)
SCORES = {
    (): task_scores([1] * 36 + [0] * 4),
    (1,): task_scores([1] * 18 + [0] * 22),
    (2,): task_scores([1] * 27 + [0] * 13),
}


def read_scores(dropped: tuple[int, ...], _part: str) -> dict:
    return {"pick": SCORES[dropped]}


def trial(metric: str, dropped: tuple[int, ...], epsilon: float | None = None) -> TrialResult:
    kind = "absolute" if epsilon else None
    candidate = PruningCandidate(metric, "update", "elementwise", kind, epsilon, None, 0.25, False)
    return TrialResult("0", "grid", candidate, dropped, evaluation(0.75, dropped), 0.75, 0.75, 1.0, "done")


def test_a_set_is_compared_with_the_whole_model_on_the_same_items() -> None:
    (row,) = compare_by_task(
        "chosen",
        (1,),
        "held_out",
        read_scores,
        chance={"pick": 0.25},
        metrics={"pick": "acc"},
        resampling=RESAMPLING,
    )
    assert (row.task, row.metric, row.num_items, row.chance) == ("pick", "acc", 40, 0.25)
    assert row.retention.raw.value == pytest.approx(0.5)
    assert row.bits_per_byte_before is None
    assert tasks_at_chance([row]) == []
    missing = replace(row.retention, above_chance=Estimate(*[float("nan")] * 3))
    assert "On pick the whole model is not above chance" in tasks_at_chance([replace(row, retention=missing)])[0]


def test_slices_join_in_order_of_items() -> None:
    joined = join_slices([{"pick": task_scores([1, 0], first=2)}, {"pick": task_scores([0, 1])}, {}])
    assert joined["pick"].item_ids == ("000", "001", "002", "003")
    assert joined["pick"].value.tolist() == [0, 1, 1, 0]


def test_an_evaluation_averages_retention_over_tasks() -> None:
    base, pruned = read_scores((), "search"), read_scores((2,), "search")
    result = evaluate_set((2,), base, pruned, chance={"pick": 0.25}, resampling=RESAMPLING, seconds=1.0)
    assert result.accuracy == {"pick": pytest.approx(27 / 40)}
    assert result.raw.value == pytest.approx(0.75)
    assert result.above_chance.value == pytest.approx((27 / 40 - 0.25) / (36 / 40 - 0.25))
    assert result.bits_per_byte != result.bits_per_byte


def test_avss_is_compared_with_variance_at_the_same_setting() -> None:
    (text,) = metric_gains([trial("variance", (1,)), trial("avss", (2,), 0.01)], read_scores, RESAMPLING)
    assert text.startswith("update, elementwise, epsilon 0.01, ratio 0.25: AVSS retains +25.0 points more")
    assert "noise" not in text
    (same,) = metric_gains([trial("variance", (1,)), trial("avss", (1,), 0.01)], read_scores, RESAMPLING)
    assert same.endswith("drop the same layers.")
    assert not list(metric_gains([trial("avss", (1,), 0.01)], read_scores, RESAMPLING))


def test_the_gain_of_a_search_is_shown_on_both_parts() -> None:
    chosen, reference = trial("variance", (2,)), trial("avss", (1,), 0.01)
    held_out = Estimate(0.7, 0.6, 0.8)
    lines = list(search_gain(chosen, held_out, reference, read_scores, RESAMPLING))
    assert lines[0] == (
        "The chosen set retains 75.0% on the items of the search and 70.0% on held-out ones (60.0% to 80.0%)."
    )
    assert lines[1].startswith("Against plain avss of the same size it gains +25.0 points")
    assert lines[1].endswith("0.0 points of the gain are selection bias.")
    assert len(list(search_gain(chosen, held_out, chosen, read_scores, RESAMPLING))) == 1


@pytest.mark.parametrize("objective", get_args(Objective))
def test_a_set_without_finite_likelihoods_is_the_worst_and_says_why(objective: Objective) -> None:
    def model(choice: float, text: float, value: float) -> dict[str, TaskScores]:
        return by_task(
            [
                ItemScore("choices", "acc", "a", 1, 1, None, None, np.log(0.9)),
                ItemScore("choices", "acc", "b", value, 1, None, None, choice),
                ItemScore("text", "next_token_accuracy", "a", 3, 4, -8.0, 10),
                ItemScore("text", "next_token_accuracy", "b", 3 * value, 4, text, 10),
            ]
        )

    def evaluate(pruned: dict[str, TaskScores]) -> Evaluation:
        base = model(np.log(0.9), -8.0, 1)
        return evaluate_set((1,), base, pruned, chance={}, resampling=RESAMPLING, seconds=0.0)

    value = ObjectiveFunction(objective)
    poor, broken = evaluate(model(np.log(0.1), -80.0, 0)), evaluate(model(np.nan, np.nan, np.nan))
    assert value(broken, 0.1) == WORST < value(poor, 0.1)
    assert (broken.raw.missing, np.isnan(broken.bits_per_byte)) == (True, True)
    assert broken.undefined == "the logits for 1 of 2 items of choices, 1 of 2 items of text are not finite"
    assert poor.undefined is None


def test_a_set_that_breaks_on_held_out_items_alone_has_no_gain_there() -> None:
    held_out = Estimate(math.nan, math.nan, math.nan)
    chosen = trial("last", (1,))
    assert list(search_gain(chosen, held_out, None, lambda *_: {}, RESAMPLING)) == [
        "The chosen set retains 75.0% on the items of the search; its retention on held-out ones is not defined."
    ]
