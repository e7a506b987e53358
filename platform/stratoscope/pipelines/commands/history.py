"""The command `stratoscope history`: key figures over the nights of an audit, or any question in SQL."""

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
    """Show key figures over the nights of an audit, or answer a question in SQL."""

    output: str = "runs"
    """Folder or fsspec URL (s3://...) that holds all runs."""
    name: str = "nightly"
    """Of the audit."""
    model: str | None = None
    """Only this model or forecaster."""
    facts: bool = False
    """Facts, too: figures that never alert."""
    nights: int = Field(7, ge=1)
    """Most nights, the latest."""
    sql: str | None = None
    """A question to the views: runs, and JOB_TABLE of every table of every job, such as score_layer_scores."""


def show_history(arguments: Sequence[str]) -> None:
    """Print key figures, a column for each night.

    Raises:
        InputError: an argument is unknown, the output cannot be used, or the question is none.
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
        known = history.query(
            "SELECT DISTINCT json_extract_string(config, '$.name') AS name FROM runs WHERE job = 'audit'"
        )
        names = [name for name in known["name"].to_pylist() if name]
        console.print(f"no figures of the audit {config.name!r}{suggest(config.name, names, 'audits')}", soft_wrap=True)
        return
    models = dict.fromkeys(r["model"] for r in rows)
    if config.model is not None and config.model not in models:
        raise InputError(f"model {config.model!r} is in no night{suggest(config.model, models, 'models')}")
    shown = [r for r in rows if config.model in (None, r["model"]) and (config.facts or r["kind"] != "fact")]
    if shown:
        console.print(_by_night(shown, config.nights))
    else:
        console.print("no figures with thresholds; --facts shows those without", soft_wrap=True)


def _by_night(rows: list[dict[str, Any]], most: int) -> Table:
    nights = list(dict.fromkeys((r["started"], r["run_id"]) for r in rows))[-most:]
    table = Table("model", "stage", "figure", *(f"{started[:10]}\n{run_id}" for started, run_id in nights), box=None)
    values = {(r["model"], r["stage"], r["figure"], r["run_id"]): r for r in rows}
    for model, stage, figure in dict.fromkeys((r["model"], r["stage"], r["figure"]) for r in rows):
        found = [values.get((model, stage, figure, run_id)) for _, run_id in nights]
        cells = ["" if r is None else f"{r['value']:.4g}{' ✗' if r['regression'] else ''}" for r in found]
        table.add_row(escape(model), stage, escape(figure), *cells)
    return table


def _as_table(answer: pa.Table) -> Table:
    table = Table(*answer.column_names, box=None)
    for row in answer.to_pylist():
        table.add_row(*("" if value is None else escape(str(value)) for value in row.values()))
    return table
