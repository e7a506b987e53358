"""The configuration and the tables of the search."""

import math
from pathlib import Path

import pytest
from rich.console import Console

from stratoscope.errors import InputError
from stratoscope.evaluation import ItemMetric, ItemScore, Resampling, TaskItems, load_tasks
from stratoscope.models.speed import SpeedComparison
from stratoscope.pipelines.runtime.cards import checkpoint_name
from stratoscope.pipelines.runtime.config import validate
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.pruning.checkpoint import describe_trial
from stratoscope.pipelines.search.pruning.checkpoint import speed_text as speed_sentence
from stratoscope.pipelines.search.pruning.checks import check_objective
from stratoscope.pipelines.search.pruning.estimate import full_evaluations, num_trials
from stratoscope.pipelines.search.pruning.figures import _lines, _mean_point
from stratoscope.pipelines.search.pruning.progress import best_by_size, progress_section
from stratoscope.pipelines.search.pruning.report import build_page, summary_table
from stratoscope.pipelines.search.pruning.validation import metrics_by_rank
from stratoscope.pipelines.search.trials import plan_trials, trial_origin
from stratoscope.pruning import (
    STRATEGY_NAMES,
    ModelSize,
    PruningCandidate,
    RandomSetComparison,
    TrialResult,
    compare_by_task,
)
from stratoscope.results import Manifest, Run, Storage, write_table
from stratoscope.tables.pruning import (
    ComparisonRow,
    EvaluationRow,
    FrontRow,
    PruningTrialRow,
    SpeedRow,
    evaluation_table,
)
from tests.evaluation.filtered import write_filtered_task
from tests.pruning.examples import evaluation, task_scores

SIZE = ModelSize(100, (10, 20, 30))
SPEEDS = {80: SpeedComparison("forward pass", "tokens/s", 1.0, 2.0, 1.9, 1.5, 2.5)}


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
    assert (done.metric, done.draw, done.parameters, done.tokens_per_s, done.speed) == ("random", 2, 80, 2.0, 1.9)
    assert done.retention_above_chance is None
    assert (failed.retention_raw, failed.accuracy, failed.error) == (None, {"pick": None}, "no memory")
    front = FrontRow.from_row(rows[0], evaluation(0.8, (1,)), chosen=True)
    (read,) = FrontRow.read(FrontRow.table([front], ["pick"]))
    assert (read.held_out_raw, read.held_out_above_chance, read.chosen) == (0.8, None, True)


def write_run(folder: Path, num_random: int) -> Run:
    """Write the tables of a search as the job does, and the part of its manifest that a report reads."""
    storage = Storage(str(folder))
    candidate = PruningCandidate("last", None, None, None, None, None, 0.3, False)
    trial = TrialResult("0000", "grid", candidate, (1,), evaluation(0.9, (1,)), 0.9, 0.9, 1.0, "done")
    row = PruningTrialRow.from_trial(trial, SIZE, SPEEDS)
    front = FrontRow.from_row(row, evaluation(0.8, (1,)), chosen=True)
    before, after = task_scores([1] * 9 + [0]), {"strict": [1] * 4 + [0] * 6, "flexible": [1] * 8 + [0] * 2}
    comparisons = [
        comparison
        for metric, values in after.items()
        for part in ("search", "held_out")
        for comparison in compare_by_task(
            "chosen",
            (1,),
            part,
            lambda dropped, _part, values=values: {"pick": task_scores(values) if dropped else before},
            chance={},
            metrics={"pick": f"exact_match,{metric}"},
            resampling=Resampling(100),
        )
    ]
    write_table(storage, "trials", PruningTrialRow.table([row], ["pick"]))
    write_table(storage, "front", FrontRow.table([front], ["pick"]))
    write_table(storage, "comparison", ComparisonRow.table(map(ComparisonRow.from_comparison, comparisons)))
    write_table(storage, "speed", SpeedRow.table([SpeedRow(**vars(SPEEDS[80]))]))
    against = RandomSetComparison(0.9, (0.5,) * num_random)
    task = {"metric": "exact_match,strict", "search": 10, "held_out": 10, "calibrated": 0}
    manifest = Manifest("search", "run", SearchConfig().model_dump(mode="json"), 0)
    manifest.fingerprints = {"weights": "w"}
    manifest.counts = {"evaluations": 2}
    manifest.facts = {
        "architecture": "llama", "num_layers": 3, "parameters": 100, "device": "cpu", "dtype": "float32", "threads": 1,
        "statistics": "none", "tasks": {"pick": task}, "verdicts": [against.verdict],
        "against_random": {"chosen": 0.9, "random": list(against.random), "p": against.p_value},
    }  # fmt: skip
    return Run(storage, manifest)


def test_plot_tables_terminal_and_card_show_one_speed(tmp_path: Path) -> None:
    run = write_run(tmp_path, 20)
    page = build_page(run)
    sections = {section.heading: section for section in page.sections}
    assert page.verdict
    assert "1.90 times as fast" in page.verdict.paragraphs[0]
    for title in ("The front", "The exported checkpoint"):
        assert sections[title].tables[0].rows[0][-1] == "1.90 (1.50 to 2.50)"
    console = Console(record=True, width=200)
    console.print(summary_table(run))
    assert "1.90 (1.50 to 2.50)" in console.export_text()
    assert speed_sentence(SPEEDS[80]) == "1.90 times that of the original (1.50 to 2.50 in paired runs)"


def test_every_metric_of_a_task_has_its_curve_and_row(tmp_path: Path) -> None:
    sections = {section.heading: section for section in build_page(write_run(tmp_path, 20)).sections}
    titles = [figure.layout.meta["title"] for figure in sections["Retention by score"].figures]
    assert [title.split(", ", 1)[1] for title in titles] == [
        "mean over tasks", "pick, exact_match,strict", "pick, exact_match,flexible",
    ]  # fmt: skip
    rows = sections["The chosen set, task by task"].tables[0].rows
    assert [row[1] for row in rows] == 2 * ["exact_match,strict", "exact_match,flexible"]


def test_the_page_says_what_p_value_the_random_sets_allow(tmp_path: Path) -> None:
    page = build_page(write_run(tmp_path / "few", 2))
    sections = {section.heading: section for section in page.sections}
    assert page.verdict
    assert "No difference could be shown with 2 random sets" in page.verdict.paragraphs[1]
    assert "no difference could be shown with 2 random sets" in sections["All findings"].paragraphs[0]
    assert "p = 0.333, of which 0.333 is the least" in sections["Against random sets"].paragraphs[0]
    without = [section.heading for section in build_page(write_run(tmp_path / "none", 0)).sections]
    assert "Against random sets" not in without


def test_metrics_that_count_come_before_all_others() -> None:
    def task(name: str, *filters: str | None) -> TaskItems:
        return TaskItems(name, tuple(ItemMetric("exact_match", f) for f in filters), None, (), (), 0, 0.0)

    assert metrics_by_rank([task("a", "x", "y"), task("b", None)]) == [
        {"a": "exact_match,x", "b": "exact_match"},
        {"a": "exact_match,y"},
    ]


def test_a_trial_without_a_score_is_named_after_its_origin() -> None:
    trial = TrialResult("0000", "greedy", None, (1,), evaluation(0.9, (1,)), 0.9, 0.9, 1.0, "done")
    row = PruningTrialRow.from_trial(trial, SIZE, SPEEDS)
    assert (row.metric, row.ratio, row.contiguous) == ("greedy", pytest.approx(1 / 3), None)


def test_item_scores_survive_the_table() -> None:
    scores = [
        ItemScore("pick", "acc", "a", 1.0, 1.0, None, None),
        ItemScore("read", "next_token_accuracy", "b", 3.0, 7.0, -12.5, 40),
    ]
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


def test_an_objective_by_likelihood_is_refused_where_all_answers_are_generated(tmp_path: Path) -> None:
    (task,) = load_tasks([write_filtered_task(tmp_path, ["a b", "c d"], ["b", "d"])])
    items = TaskItems("words", (ItemMetric("exact_match"),), task, (), (), 0, 0.0)
    check_objective("retention_raw", [], [items])
    for objective in ("likelihood", "mixed"):
        with pytest.raises(InputError, match=f"search.objective {objective} needs a task with choices"):
            check_objective(objective, [], [items])


def test_the_progress_of_a_search_is_by_size_on_the_usual_share_of_items() -> None:
    def row(number: int, dropped: tuple[int, ...], objective: float, share: float) -> PruningTrialRow:
        trial = TrialResult(
            f"{number:04d}", "swap", None, dropped, evaluation(0.9, dropped), 0.9, objective, share, "stopped"
        )
        return PruningTrialRow.from_trial(trial, SIZE, {SIZE.without(dropped): SPEEDS[80]}, objective)

    values = [((0,), 0.5), ((1,), 0.6), ((0, 1), 0.2), ((2,), 0.7), ((2,), 0.7)]
    rows = [row(i, dropped, value, 0.25) for i, (dropped, value) in enumerate(values)]
    rows.append(row(5, (2,), 0.9, 1.0))
    assert best_by_size(rows) == {1: [0.5, 0.6, 0.7]}
    (section,) = progress_section(rows, "likelihood", "model")
    assert len(section.figures) == 1
    assert list(progress_section(rows[:2], "likelihood", "model")) == []


def test_a_search_over_sets_is_estimated_by_its_budget_on_the_first_rung() -> None:
    search = {"algorithm": "swap", "num_samples": 80, "rungs": [0.25, 1.0], "finalists": 4, "swaps": 10}
    config = validate(SearchConfig, {"search": search, "space": {"ratios": [0.1, 0.25]}})
    assert num_trials(config, 30) == 170
    assert full_evaluations(config, 170) == 160 * 0.25 + 10 + 8
    assert full_evaluations(SearchConfig(), 24) == 24


def test_checkpoints_are_named_after_their_base() -> None:
    assert checkpoint_name("owner/model", "without-2-layers") == "model-without-2-layers"
    assert checkpoint_name("/models/base.gguf", "recovered-avss-0") == "base-recovered-avss-0"


def test_a_draw_that_several_trials_repeat_counts_once() -> None:
    def row(draw: int, value: float, trial_id: str) -> PruningTrialRow:
        candidate = PruningCandidate("random", None, None, None, None, draw, 0.3, False)
        trial = TrialResult(trial_id, "nsga2", candidate, (1,), evaluation(value, (1,)), value, value, 1.0, "done")
        return PruningTrialRow.from_trial(trial, SIZE, SPEEDS)

    rows = [row(0, 0.3, "0"), row(1, 0.5, "1"), *(row(2, 0.7, str(i)) for i in range(2, 6))]
    ((point,),) = _lines(rows, _mean_point).values()
    assert (point.value, point.low, point.high) == (pytest.approx(0.5), 0.3, 0.7)


@pytest.mark.parametrize("origin", ["greedy", *STRATEGY_NAMES])
def test_the_card_names_the_search_over_sets(origin: str) -> None:
    trial = TrialResult("0", origin, None, (1,), evaluation(0.9, (1,)), 0.9, 0.9, 1.0, "done")
    assert describe_trial(trial) == f"a search over sets of layers (`{origin}`)"
