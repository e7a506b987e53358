"""Flow of the faithfulness job: series -> grid of cells, fitted and measured -> comparison -> report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar

import torch
from rich.console import Console

from stratoscope.data import Series, SeriesSource, load_series
from stratoscope.digest import digest
from stratoscope.errors import InputError, RunError
from stratoscope.execution import cluster, resources
from stratoscope.forecasting import (
    GridCell,
    deviation_ratios,
    differences,
    grid_cells,
    ratio_verdicts,
    spreads,
    verdicts,
)
from stratoscope.pipelines.faithfulness.cells import CellStore, GridInputs, run_cells
from stratoscope.pipelines.faithfulness.config import FaithfulnessConfig
from stratoscope.pipelines.faithfulness.estimate import estimate
from stratoscope.pipelines.faithfulness.facts import SeriesFacts, naive_error
from stratoscope.pipelines.faithfulness.report import build_page, recorded_facts, series_lines, summary_table
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.surroundings import check_connected
from stratoscope.results import Run, write_table
from stratoscope.tables.faithfulness import CELL_TABLES, CellRow, DeviationRatioRow, DifferenceRow, SpreadRow

GPU_SHARE = 0.25
"""Default share of a GPU for a task. It is small because the models are small."""


class FaithfulnessJob(Job[FaithfulnessConfig]):
    """Trains forecasters with several seeds, perturbs them, and reports which changes their forecasts survive."""

    name: ClassVar[str] = "faithfulness"
    config_class = FaithfulnessConfig

    series: dict[str, Series]
    facts: dict[str, SeriesFacts]
    cells: list[GridCell]

    def prepare(self) -> None:
        """Read the series, check that they have windows of every horizon, and lay out the grid."""
        config, grid = self.config, self.config.grid
        self.series = read_series(config.series.to_sources())
        check_lengths(self.series, {horizon: config.lookback(horizon) for horizon in grid.horizons})
        self.facts = {name: SeriesFacts.of(series, config) for name, series in self.series.items()}
        self.cells = grid_cells(list(self.series), grid.forecasters, grid.trainings, grid.seeds, grid.horizons)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return the work of the run, and estimates of its size and time."""
        return estimate(self.config, self.series, self.cells)

    def execute(self) -> None:
        """Run every cell that is not finished, compare the forecasters, and write tables and report."""
        config, context = self.config, self.context
        for line in series_lines(self.facts):
            context.console.print(line, soft_wrap=True, highlight=False, markup=False)
        with cluster():
            check_connected(config, context.console)
            num_gpus = gpu_share() if config.grid.gpus is None else config.grid.gpus
            device = "cuda" if num_gpus else "cpu"
            context.manifest.fingerprints = fingerprints(self.series, device)
            context.manifest.facts = {
                "device": device_name(device),
                "series": {name: asdict(facts) for name, facts in self.facts.items()},
            }
            self.register()
            inputs = GridInputs(context.url, config, self.series, device)
            with context.stage("cells"):
                failed = run_cells(context, self.cells, inputs, num_cpus=config.grid.cpus, num_gpus=num_gpus)
        naive_errors = {name: naive_error(series) for name, series in self.series.items()}
        write_results(context, config, self.cells, failed, naive_errors)
        with context.stage("report"):
            context.write_report(build_page(context.run))

    def clear_intermediates(self) -> None:
        """Remove the parts of cells, whose content the tables have."""
        CellStore(self.context.storage).clear()

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the series, the errors and the verdict."""
        for line in series_lines(recorded_facts(run.manifest)):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        console.print(summary_table(run))
        for line in run.manifest.facts["verdicts"]:
            console.print(line, soft_wrap=True)
        console.print(f"report: {run.report_path}", soft_wrap=True)


def read_series(sources: Sequence[SeriesSource]) -> dict[str, Series]:
    """Return the series by name.

    Raises:
        InputError: a series cannot be read, or two have the same name.
    """
    by_name: dict[str, Series] = {}
    for source in sources:
        series = load_series(source)
        if series.name in by_name:
            raise InputError(f"series.source: two series are called {series.name!r}; rename one of the files")
        by_name[series.name] = series
    return by_name


def check_lengths(series: Mapping[str, Series], lookbacks: Mapping[int, int]) -> None:
    """Check that every part of every series has windows.

    Args:
        series: series by name.
        lookbacks: lookback by horizon.

    Raises:
        InputError: a part is shorter than a window.
    """
    for each in series.values():
        for horizon, lookback in lookbacks.items():
            for part in ("train", "validation", "test"):
                each.starts(part, lookback, horizon)


def gpu_share() -> float:
    """Return the share of a GPU that a task takes by default; 0 on a cluster without GPUs."""
    return GPU_SHARE if resources().get("GPU", 0) else 0.0


def fingerprints(series: Mapping[str, Series], device: str) -> dict[str, str]:
    """Return the fingerprints of a run's data and computation."""
    return {
        "series": digest({name: each.fingerprint for name, each in series.items()}),
        "computation": digest({"device": device}),
    }


def device_name(device: str) -> str:
    """Return the name of the GPU if this process has one, otherwise the kind of device."""
    return torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else device


def write_results(
    context: RunContext,
    config: FaithfulnessConfig,
    cells: Sequence[GridCell],
    failed: Mapping[GridCell, str],
    naive_errors: Mapping[str, float],
) -> None:
    """Compare the finished cells, and write all tables, counts and verdicts.

    Args:
        context: context of the run.
        config: configuration of the run.
        cells: all cells of the grid.
        failed: errors of the cells that failed.
        naive_errors: squared error of always forecasting the training mean, by series.

    Raises:
        RunError: every cell failed.
    """
    done = [cell for cell in cells if cell not in failed]
    if not done:
        raise RunError(f"every cell failed; the first, {cells[0].key}: {failed[cells[0]]}")
    store = CellStore(context.storage)
    tables = {name: store.table(name, done) for name in CELL_TABLES}
    rows = CellRow.read(tables["cells"])
    measurements = [row.measurement() for row in rows]
    spread_rows = [SpreadRow(**vars(spread)) for spread in spreads(measurements, config.grid.seeds)]
    difference_rows = [DifferenceRow(**vars(difference)) for difference in differences(measurements)]
    ratio_rows = [DeviationRatioRow(**vars(ratio)) for ratio in deviation_ratios(measurements)]
    tables["cells"] = CellRow.table([*rows, *(CellRow.failed(cell, error) for cell, error in failed.items())])
    tables |= {
        "spreads": SpreadRow.table(spread_rows),
        "differences": DifferenceRow.table(difference_rows),
        "deviation_ratios": DeviationRatioRow.table(ratio_rows),
    }
    for name, table in tables.items():
        write_table(context.storage, name, table)
    context.manifest.counts = {"cells": len(cells), "failed": len(failed)}
    limits = config.verdict
    context.manifest.facts["verdicts"] = [
        *verdicts(
            measurements,
            spread_rows,
            max_spread=limits.spread,
            max_degradation=limits.degradation,
            naive_errors=naive_errors,
        ),
        *ratio_verdicts(ratio_rows, difference_rows),
        *(f"{cell.key} failed and is excluded from comparisons: {error}." for cell, error in failed.items()),
    ]
