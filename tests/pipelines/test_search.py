"""The configuration and the tables of the search."""

import math

import pytest

from stratoscope.errors import InputError
from stratoscope.evaluation import ItemScore
from stratoscope.pipelines.runtime.cards import checkpoint_name
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.trials import plan_trials, trial_origin
from stratoscope.pruning import ModelSize, PruningCandidate, TrialResult
from stratoscope.tables.pruning import EvaluationRow, FrontRow, PruningTrialRow, evaluation_table
from tests.pruning.examples import evaluation

SIZE = ModelSize(100, (10, 20, 30))
SPEEDS = {100: 1.0, 80: 2.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": {"metrics": ["avs"]}}, "did you mean 'avss'"),
        ({"space": {"ratios": [1.0]}}, "space.ratios.0 1.0: input should be less than 1"),
        ({"space": {"ratios": [0.1, 0.1]}}, "given twice"),
        ({"space": {"epsilons": []}}, "needs a threshold"),
        ({"search": {"rungs": [0.5, 0.25, 1.0]}}, "rungs must rise"),
        ({"search": {"algorithm": "tpe", "objective": "bits_per_byte"}}, "single ratio"),
        ({"target": "prunning"}, "target"),
    ],
)
def test_wrong_fields_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(SearchConfig, fields)


def test_trials_survive_the_table() -> None:
    candidate = PruningCandidate("random", None, None, None, None, 2, 0.3, False)
    trials = [
        TrialResult("0000", "grid", candidate, (1,), evaluation(0.9, (1,)), 0.9, 0.9, 1.0, "done"),
        TrialResult("0001", "grid", candidate, (1,), None, math.nan, None, 0.0, "error", "no memory"),
    ]
    rows = [PruningTrialRow.from_trial(trial, SIZE, SPEEDS) for trial in trials]
    done, failed = PruningTrialRow.read(PruningTrialRow.table(rows, ["pick"]))
    assert (done.metric, done.draw, done.parameters, done.tokens_per_s) == ("random", 2, 80, 2.0)
    assert done.retention_above_chance is None
    assert (failed.retention_raw, failed.accuracy, failed.error) == (None, {"pick": None}, "no memory")
    front = FrontRow.from_row(rows[0], evaluation(0.8, (1,)), chosen=True)
    (read,) = FrontRow.read(FrontRow.table([front], ["pick"]))
    assert (read.held_out_raw, read.held_out_above_chance, read.chosen) == (0.8, None, True)


def test_a_trial_without_a_score_is_named_after_its_origin() -> None:
    trial = TrialResult("0000", "greedy", None, (1,), evaluation(0.9, (1,)), 0.9, 0.9, 1.0, "done")
    row = PruningTrialRow.from_trial(trial, SIZE, SPEEDS)
    assert (row.metric, row.ratio, row.contiguous) == ("greedy", pytest.approx(1 / 3), None)


def test_item_scores_survive_the_table() -> None:
    scores = [ItemScore("pick", "a", 1.0, 1.0, None, None), ItemScore("read", "b", 3.0, 7.0, -12.5, 40)]
    rows = EvaluationRow.read(evaluation_table((1, 2), "search", scores))
    assert [row.to_score() for row in rows] == scores
    assert list(rows[0].dropped_layers) == [1, 2]


def test_a_plan_begins_with_starting_points_and_a_grid_has_none() -> None:
    config = SearchConfig()
    space = config.space.to_space()
    arguments = {
        "grid": [space.config(c) for c in space.grid()],
        "starting_points": [space.config(c) for c in space.starting_points()],
        "metrics": ("objective", "kept"),
        "num_rungs": 3,
        "concurrency": 1,
        "seed": 0,
    }
    plan = plan_trials(config.search, space, **arguments)
    assert [trial_origin(i, plan) for i in (0, len(plan.points))] == ["starting point", "nsga2"]
    grid = plan_trials(config.search.model_copy(update={"algorithm": "grid"}), space, **arguments)
    assert len(grid.points) == len(list(space.grid()))
    assert trial_origin(0, grid) == "grid"


def test_checkpoints_are_named_after_their_base() -> None:
    assert checkpoint_name("owner/model", "without-2-layers") == "model-without-2-layers"
    assert checkpoint_name("/models/base.gguf", "healed-avss-0") == "base-healed-avss-0"
