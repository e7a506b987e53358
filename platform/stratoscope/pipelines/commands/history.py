"""The command `stratoscope history`: key figures over the nights of an audit, or any SQL query."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field
from rich.markup import escape
from rich.table import Table

from stratoscope.errors import InputError, suggest
from stratoscope.pipelines.runtime.config import ConfigSection, load_config
from stratoscope.pipelines.runtime.terminal import stdout_console
from stratoscope.results import History

NIGHTS = """
    SELECT n.started, n.run_id, f.model, f.stage, f.figure, f.kind, f.value, f.regression
    FROM audit_figures f JOIN runs n ON n.job = 'audit' AND n.run_id = f.run_id
    WHERE json_extract_string(n.config, '$.name') = '{name}' AND n.finished IS NOT NULL
    ORDER BY n.started, n.run_id
"""


class HistoryConfig(ConfigSection):
    """Show key figures over the nights of an audit, or run an SQL query."""

    output: str = "runs"
    """Folder or fsspec URL (s3://...) that holds all runs."""
    name: str = "nightly"
    """Name of the audit."""
    model: str | None = None
    """Model or forecaster to show; null shows all."""
    facts: bool = False
    """Include figures without a threshold, which never alert."""
    nights: int = Field(7, ge=1)
    """Maximum number of nights; the latest are shown."""
    sql: str | None = None
    """SQL query over the views: runs, and JOB_TABLE of every table of every job, such as score_layer_scores."""


def show_history(arguments: Sequence[str]) -> None:
    """Print key figures, with a column for each night, or the result of a query.

    Raises:
        InputError: an argument is unknown, the output cannot be used, or the query is invalid.
    """
    config = load_config(HistoryConfig, "history", arguments)
    history = History(config.output)
    console = stdout_console()
    if config.sql is not None:
        console.print(_as_table(history.query(config.sql)))
        return
    if "audit_figures" not in history.views:
        console.print(f"no audits in {config.output}", soft_wrap=True)
        return
    rows = history.query(NIGHTS.format(name=config.name.replace("'", "''"))).to_pylist()
    if not rows:
        hint = suggest(config.name, _audit_names(history), "audits")
        console.print(f"no figures of the audit {config.name!r}{hint}", soft_wrap=True)
        return
    models = dict.fromkeys(row["model"] for row in rows)
    if config.model is not None and config.model not in models:
        raise InputError(f"model {config.model!r} is in no night{suggest(config.model, models, 'models')}")
    selected = [row for row in rows if config.model in (None, row["model"]) and (config.facts or row["kind"] != "fact")]
    if selected:
        console.print(_night_table(selected, config.nights))
    else:
        console.print("no figures with thresholds; --facts shows those without", soft_wrap=True)


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


def _as_table(result: pa.Table) -> Table:
    table = Table(*result.column_names, box=None)
    for row in result.to_pylist():
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    return table
