"""The flow of the faithfulness job: series -> grid of cells, fitted and perturbed -> comparison -> report."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from rich.console import Console

from stratoscope.data import Series, load_series
from stratoscope.digest import digest
from stratoscope.errors import InputError, RunError
from stratoscope.execution import Task, cluster, resources, run_tasks
from stratoscope.forecasting.comparison import counts, differences, failed_row, spreads, verdicts
from stratoscope.pipelines.faithfulness import tables
from stratoscope.pipelines.faithfulness.cells import PARTS, CellStore, GridCell, Shared, grid, run_cell
from stratoscope.pipelines.faithfulness.config import FaithfulnessConfig
from stratoscope.pipelines.faithfulness.estimate import estimate
from stratoscope.pipelines.faithfulness.report import build_page, summary_table
from stratoscope.pipelines.runtime.job import Job
from stratoscope.results import Run, from_rows, write_table

GPU_SHARE = 0.25
"""Of a task, where the cluster has GPUs: the models are small."""


class FaithfulnessJob(Job[FaithfulnessConfig]):
    """Fits forecasters over seeds, meets them with perturbations, and says what their forecasts survive."""

    name: ClassVar[str] = "faithfulness"
    config_class = FaithfulnessConfig

    series: dict[str, Series]

    def prepare(self) -> None:
        """Read the series, and see that they have windows of every horizon."""
        config = self.config
        self.series = {}
        for source in config.series.to_sources():
            found = load_series(source)
            if found.name in self.series:
                raise InputError(f"series.source: two series are called {found.name!r}; rename one of the files")
            self.series[found.name] = found
            for horizon in config.grid.horizons:
                for part in ("train", "validation", "test"):
                    found.starts(part, config.lookback(horizon), horizon)
        self.cells = grid(config, list(self.series))

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do, and estimates of what it takes."""
        return estimate(self.config, self.series, self.cells)

    def execute(self) -> None:
        """Fit and judge every cell that is not finished, then compare, and write what was found."""
        with cluster():
            gpus = self.config.grid.gpus
            if gpus is None:
                gpus = GPU_SHARE if resources().get("GPU", 0) else 0.0
            device = "cuda" if gpus else "cpu"
            self._identify(device)
            self.register()
            store = CellStore(self.context.storage)
            with self.context.stage("cells"):
                failed = self._run(store, Shared(self.context.url, self.config, self.series, device), gpus)
        done = [cell for cell in self.cells if cell not in failed]
        if not done:
            raise RunError(f"every cell failed; the first, {self.cells[0].key}: {failed[self.cells[0]]}")
        self._write(store, done, failed)
        with self.context.stage("report"):
            self.context.write_report(build_page(self.context.storage, self.context.manifest))
        store.clear()

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the errors and the verdict."""
        console.print(summary_table(run.storage))
        for line in run.manifest.facts["verdicts"]:
            console.print(line, soft_wrap=True)
        console.print(f"report: {run.report_url}", soft_wrap=True)

    def _run(self, store: CellStore, shared: Shared, gpus: float) -> dict[GridCell, str]:
        """Run the cells that are missing; return what went wrong with those that failed."""
        missing = store.missing(self.cells)
        tasks = {cell: Task((cell,), None if cell.training == "plain" else cell.plain) for cell in missing}
        failed: dict[GridCell, str] = {}
        with self.context.progress("faithfulness", len(self.cells), len(self.cells) - len(missing), "cells") as bar:
            for key, ended in run_tasks(
                run_cell,
                tasks,
                shared=shared,
                num_cpus=self.config.grid.cpus,
                num_gpus=gpus,
                stopping=self.context.stopping,
            ):
                if ended.error is not None:
                    failed[key] = ended.error
                bar.add(errors=len(failed))
        return failed

    def _write(self, store: CellStore, done: Sequence[GridCell], failed: dict[GridCell, str]) -> None:
        storage = self.context.storage
        found = {name: store.table(name, done) for name in PARTS}
        rows = found["cells"].to_pylist()
        spread_rows = spreads(rows, self.config.grid.seeds)
        found["spreads"] = from_rows(spread_rows, tables.SPREADS)
        found["differences"] = from_rows(differences(rows), tables.DIFFERENCES)
        lost = [failed_row(cell.values, error) for cell, error in failed.items()]
        found["cells"] = from_rows([*(tuple(r.values()) for r in rows), *lost], tables.CELLS)
        for name, table in found.items():
            write_table(storage, name, table)
        every = found["cells"].to_pylist()
        self.context.manifest.counts = dict(counts(every))
        self.context.manifest.facts["verdicts"] = [
            *verdicts(rows, spread_rows, self.config.verdict),
            *(f"{cell.key} failed, and is in no comparison: {error}." for cell, error in failed.items()),
        ]

    def _identify(self, device: str) -> None:
        self.context.manifest.fingerprints = {
            "series": digest({name: series.fingerprint for name, series in self.series.items()}),
            "computation": digest({"device": device}),
        }
        self.context.manifest.facts = {
            "device": device
            if device == "cpu"
            else torch.cuda.get_device_name()
            if torch.cuda.is_available()
            else device,
            "series": {
                name: {
                    "rows": len(series.values),
                    "columns": list(series.columns),
                    "windows": ", ".join(
                        f"{len(series.starts('test', self.config.lookback(h), h)):,} test windows of horizon {h}"
                        for h in self.config.grid.horizons
                    ),
                }
                for name, series in self.series.items()
            },
        }
