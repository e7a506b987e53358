"""Key metrics of finished runs."""

from collections.abc import Collection
from pathlib import Path

from stratoscope.forecasting import GridCell, Measurement, spreads
from stratoscope.pipelines.audit.key_metrics import faithfulness_metrics, hallucination_metrics, score_metrics
from stratoscope.results import Manifest, Run, Storage, write_table
from stratoscope.scoring import KeyMetric
from stratoscope.scoring.regression import missing_metrics
from stratoscope.tables.faithfulness import CellRow, SpreadRow

SEEDS = range(10)
NAME = "timesieve, plain, waves, horizon 24"


def night(folder: Path, diverged: Collection[int]) -> dict[str, KeyMetric]:
    """Return the key metrics of a run in which the training of some seeds diverged."""
    cells = [GridCell("waves", "timesieve", "plain", seed, 24) for seed in SEEDS]
    done = [
        Measurement(
            **vars(cell), perturbation="none", level=0.0, mae=0.4, mse=0.3 + cell.seed / 1e3, moved=0, seconds=1
        )
        for cell in cells
        if cell.seed not in diverged
    ]
    failed = [CellRow.failed(cell, "the loss is not finite") for cell in cells if cell.seed in diverged]
    storage = Storage(str(folder))
    write_table(storage, "cells", CellRow.table([*map(CellRow.done, done), *failed]))
    write_table(storage, "spreads", SpreadRow.table([SpreadRow(**vars(s)) for s in spreads(done, SEEDS)]))
    metrics = faithfulness_metrics(Run(storage, Manifest("faithfulness", "run", {}, 0)))
    return {metric.name: metric for metric in metrics}


def test_failed_cells_are_a_share_of_which_any_increase_counts(tmp_path: Path) -> None:
    for number, diverged in enumerate(([], range(5), SEEDS)):
        metric = night(tmp_path / str(number), diverged)[f"share of failed cells, {NAME}"]
        assert (metric.value, metric.kind) == (len(diverged) / 10, "failures")


def test_spreads_over_different_seeds_are_not_compared(tmp_path: Path) -> None:
    before, now = night(tmp_path / "before", ()), night(tmp_path / "now", (7, 2))
    assert before[f"spread over seeds, {NAME}"].kind == "seed_spread"
    assert f"spread over seeds, {NAME}" not in now
    assert now[f"spread over seeds without 2, 7, {NAME}"].kind == "fact"
    assert not missing_metrics(now.values(), before)
    assert missing_metrics([], before)


def test_layers_with_activations_that_are_not_finite_are_a_key_metric(tmp_path: Path) -> None:
    manifest = Manifest("score", "run", {}, 0, facts={"nonfinite_layers": {"mlp": [2, 3], "update": [3]}})
    for metrics in (score_metrics, hallucination_metrics):
        (metric,) = metrics(Run(Storage(str(tmp_path)), manifest))
        assert (metric.value, metric.kind) == (2, "failures")
