"""Execution of the grid's cells: each cell is a task that writes its part of every table to the run's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from safetensors.torch import load, save

from stratoscope.data import Series
from stratoscope.errors import DamagedFileError
from stratoscope.execution import Task, run_tasks
from stratoscope.forecasting import (
    FORECASTERS,
    FittedCell,
    GridCell,
    example_forecast,
    fit_cell,
    measure_errors,
    measure_worst_cases,
)
from stratoscope.phases import tell
from stratoscope.pipelines.faithfulness.config import FaithfulnessConfig
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.results import Storage, check_reachable, from_parquet, read_parquet, write_table
from stratoscope.tables.faithfulness import CELL_TABLES, CellRow, EpochRow, ForecastRow, WorstCaseRow

FOLDER = "cells"


@dataclass(frozen=True, eq=False)
class GridInputs:
    """Inputs that all cells share."""

    run: str
    """URL of the run's folder."""
    config: FaithfulnessConfig
    """Configuration of the run."""
    series: Mapping[str, Series]
    """Series by name."""
    device: str
    """Device of the models."""


def run_cells(
    context: RunContext, cells: Sequence[GridCell], inputs: GridInputs, *, num_cpus: float, num_gpus: float
) -> dict[GridCell, str]:
    """Run the cells that are not finished.

    Args:
        context: context of the run.
        cells: all cells of the grid.
        inputs: inputs of the cells.
        num_cpus: CPUs of a cell.
        num_gpus: GPUs of a cell.

    Returns:
        The errors of the cells that failed.
    """
    missing = CellStore(context.storage).missing(cells)
    tasks = {cell: Task((cell,), _needed(cell, inputs.config.grid.seeds[0])) for cell in missing}
    errors: dict[GridCell, str] = {}
    with context.progress("faithfulness", len(cells), len(cells) - len(missing), "cells") as progress:
        for cell, result in run_tasks(
            run_cell, tasks, shared=inputs, num_cpus=num_cpus, num_gpus=num_gpus, stopping=context.stopping
        ):
            if result.error is not None:
                errors[cell] = result.error
            progress.add(errors=len(errors))
    return errors


def _needed(cell: GridCell, first_seed: int) -> tuple[GridCell, ...]:
    """Return the cells whose weights a cell needs."""
    return tuple(
        needed for needed in dict.fromkeys((cell.start(first_seed), cell.teacher(first_seed))) if needed is not None
    )


def run_cell(inputs: GridInputs, cell: GridCell) -> None:
    """Fit and measure a forecaster, and write its part of every table. The `cells` part is last and marks completion.

    Raises:
        DivergedError: a loss is not finite.
        RunError: this node cannot reach the run's folder.
    """
    check_reachable(inputs.run)
    if inputs.device == "cpu":
        # The order of summation, and therefore the results, must not depend on the number of threads.
        torch.set_num_threads(1)
    storage = Storage(inputs.run).child(FOLDER)
    series = inputs.series[cell.dataset]
    settings = inputs.config.cell_settings(cell, len(series.columns))
    first_seed = inputs.config.grid.seeds[0]
    start, teacher = cell.start(first_seed), cell.teacher(first_seed)
    weights = None if start is None else _read_weights(storage, start)
    teacher_weights = None if teacher in (None, start) else _read_weights(storage, teacher)
    fitted = fit_cell(cell, settings, series, inputs.device, weights, teacher_weights=teacher_weights)
    if cell.training == "plain" and FORECASTERS[cell.forecaster].trainable:
        _write_weights(storage, fitted)
    parts = {
        "epochs": EpochRow.table(EpochRow(**vars(cell), **vars(epoch)) for epoch in fitted.epochs),
        "worst_case": WorstCaseRow.table(WorstCaseRow(**vars(m)) for m in measure_worst_cases(fitted, settings)),
        "forecasts": ForecastRow.table(ForecastRow(**vars(point)) for point in example_forecast(fitted, series)),
        "cells": CellRow.table(CellRow.done(m) for m in measure_errors(fitted, settings)),
    }
    for name, part in parts.items():
        write_table(storage, f"{cell.key}.{name}", part)


def _read_weights(storage: Storage, cell: GridCell) -> dict[str, torch.Tensor]:
    return load(storage.read(f"{cell.key}.safetensors"))


def _write_weights(storage: Storage, fitted: FittedCell) -> None:
    weights = {name: tensor.contiguous() for name, tensor in fitted.model.state_dict().items()}
    storage.write(f"{fitted.cell.key}.safetensors", save(weights))


class CellStore:
    """The parts of tables that finished cells have written.

    Args:
        storage: the run's folder.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def missing(self, cells: Sequence[GridCell]) -> list[GridCell]:
        """Return the cells that are not finished, or whose parts cannot be read."""
        names = set(self._storage.names(FOLDER))
        return [cell for cell in cells if f"{cell.key}.cells.parquet" not in names or not self._is_intact(cell)]

    def _is_intact(self, cell: GridCell) -> bool:
        try:
            for name in CELL_TABLES:
                read_parquet(self._storage, f"{FOLDER}/{cell.key}.{name}.parquet")
        except (DamagedFileError, FileNotFoundError) as error:
            tell(f"{error}; the cell {cell.key} is computed again")
            return False
        return True

    def table(self, name: str, cells: Sequence[GridCell]) -> pa.Table:
        """Return a table, concatenated from the parts of these cells in their order."""
        paths = [f"{FOLDER}/{cell.key}.{name}.parquet" for cell in cells]
        contents = self._storage.read_all(paths)
        parts = [from_parquet(contents[path]) for path in paths]
        return pa.concat_tables(parts) if parts else CELL_TABLES[name].schema().empty_table()

    def clear(self) -> None:
        """Remove all parts. The run's tables must have been written."""
        self._storage.remove(FOLDER)
