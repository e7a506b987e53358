"""The command `stratoscope history`: key figures over the nights of an audit, or any SQL query."""

import sys
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stratoscope.errors import InputError, suggest
from stratoscope.pipelines.runtime.command_line import parse_command_line
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.terminal import stdout_console
from stratoscope.pipelines.runtime.validators import Count, Place
from stratoscope.results import History

BATCH_ROWS = 1000
"""Number of rows of a query that are printed as one table."""

NIGHTS = """
    SELECT n.started, n.run_id, f.model, f.stage, f.figure, f.kind, f.value, f.regression
    FROM audit_figures f JOIN runs n ON n.job = 'audit' AND n.run_id = f.run_id
    WHERE json_extract_string(n.config, '$.name') = '{name}' AND n.finished IS NOT NULL
    ORDER BY n.started, n.run_id
"""


class HistoryConfig(ConfigSection):
    """Show key figures over the nights of an audit, or run an SQL query."""

    output: Place = "runs"
    """Folder or fsspec URL (s3://...) that holds all runs."""
    name: str = "nightly"
    """Name of the audit."""
    model: str | None = None
    """Model or forecaster to show; null shows all."""
    facts: bool = False
    """Include figures without a threshold, which never alert."""
    nights: Count = 7
    """Maximum number of nights; the latest are shown."""
    sql: str | None = None
    """SQL query over the views: runs, and JOB_TABLE of every table of every job, such as score_layer_scores."""
    limit: Count | None = 1000
    """Maximum number of rows of a query that are printed; null prints all."""


def show_history(arguments: Sequence[str]) -> None:
    """Print key figures, with a column for each night, or the result of a query.

    Raises:
        InputError: an argument is unknown, the output cannot be used, or the query is invalid.
    """
    config = parse_command_line(HistoryConfig, "history", arguments)
    history = History(config.output)
    console = stdout_console()
    if config.sql is not None:
        _print_result(history, config.sql, config.limit, console)
        return
    if "audit_figures" not in history.views and "name" in config.model_fields_set:
        raise InputError(f"name {config.name!r} is no finished audit; there are no audits in {config.output}")
    if "audit_figures" not in history.views:
        console.print(f"no audits in {config.output}", soft_wrap=True)
        return
    rows = history.query(NIGHTS.format(name=config.name.replace("'", "''"))).to_pylist()
    if not rows:
        hint = suggest(config.name, _audit_names(history), "audits")
        raise InputError(f"name {config.name!r} is no finished audit{hint}")
    models = dict.fromkeys(row["model"] for row in rows)
    if config.model is not None and config.model not in models:
        raise InputError(f"model {config.model!r} is in no night{suggest(config.model, models, 'models')}")
    selected = [row for row in rows if config.model in (None, row["model"]) and (config.facts or row["kind"] != "fact")]
    if selected:
        console.print(_night_table(selected, config.nights))
    else:
        console.print("no figure can alert, because none has a threshold; --facts shows them all", soft_wrap=True)


def _audit_names(history: History) -> list[str]:
    names = history.query("SELECT DISTINCT json_extract_string(config, '$.name') AS name FROM runs WHERE job = 'audit'")
    return [name for name in names["name"].to_pylist() if name]


def _night_table(rows: list[dict[str, Any]], max_nights: int) -> Table:
    nights = list(dict.fromkeys((row["started"], row["run_id"]) for row in rows))[-max_nights:]
    table = Table("model", "stage", "figure", *(f"{started[:10]}\n{run_id}" for started, run_id in nights), box=None)
    cells = {(row["model"], row["stage"], row["figure"], row["run_id"]): _cell(row) for row in rows}
    for model, stage, figure in dict.fromkeys((row["model"], row["stage"], row["figure"]) for row in rows):
        values = [cells.get((model, stage, figure, run_id), "") for _, run_id in nights]
        table.add_row(escape(model), stage, escape(figure), *values)
    return table


def _cell(row: dict[str, Any]) -> str:
    return f"{row['value']:.4g}{' ✗' if row['regression'] else ''}"


def _print_result(history: History, sql: str, limit: int | None, console: Console) -> None:
    """Print the result of a query as one table per batch, so that a result of any size can be printed."""
    left = limit
    printed = False
    for batch in history.batches(sql, BATCH_ROWS):
        shown = batch if left is None else batch.slice(0, left)
        if shown.num_rows or not printed:
            console.print(_as_table(shown))
        printed = True
        if left is not None:
            if batch.num_rows > left:
                print(f"history: only the first {limit:,} rows are shown; --limit null shows all", file=sys.stderr)
                return
            left -= batch.num_rows
    if not printed:
        console.print("no rows")


def _as_table(batch: pa.RecordBatch) -> Table:
    table = Table(*map(escape, batch.schema.names), box=None)
    for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        table.add_row(*("" if value is None else escape(str(value)) for value in row))
    return table
