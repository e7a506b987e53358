"""All runs of an output folder as SQL views. The views read the run folders; no other state is kept."""

import json
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from stratoscope.errors import InputError, first_line
from stratoscope.results.listing import RunState, list_runs
from stratoscope.results.storage import Storage

RUNS = pa.schema(
    [
        ("job", pa.string()),
        ("run_id", pa.string()),
        ("state", pa.string()),
        ("exit_code", pa.int64()),
        ("started", pa.string()),
        ("finished", pa.string()),
        ("seconds", pa.float64()),
        ("tokens_per_second", pa.float64()),
        ("peak_memory_bytes", pa.int64()),
        ("identity", pa.string()),
        ("config", pa.string()),
        ("fingerprints", pa.string()),
        ("facts", pa.string()),
        ("counts", pa.string()),
    ]
)
"""One row per run; nested values are JSON."""


class History:
    """The runs of an output folder, as views of DuckDB.

    The view `runs` has a row per run. Every table of every job is a view called `job_table`, such as
    `score_layer_scores`, over all runs that have it, with the column `run_id`. A column that a run of an older version
    lacks is null in its rows.

    Args:
        output: local path or fsspec URL that holds all runs.

    Raises:
        InputError: the output cannot be used.
    """

    def __init__(self, output: str) -> None:
        self._storage = Storage(output)
        self._connection = duckdb.connect()
        self._storage.register_with(self._connection)
        states = list(list_runs(output))
        rows = [_row(state) for state in states]
        self._connection.register("runs", pa.Table.from_pylist(rows, schema=RUNS))
        self._files = self._tables(states)

    @property
    def views(self) -> list[str]:
        """The names of the views."""
        return ["runs", *sorted(self._files)]

    def query(self, sql: str) -> pa.Table:
        """Return the result of an SQL query.

        Raises:
            InputError: the query is not valid, names an unknown view or column, or returns no table.
        """
        try:
            for view, files in self._files.items():
                if view.lower() in sql.lower():
                    self._make_view(view, files)
            relation = self._connection.sql(sql)
            # DuckDB runs the query here.
            table = None if relation is None else relation.to_arrow_table()
        except duckdb.Error as error:
            views = ", ".join(self.views)
            raise InputError(f"the query failed: {first_line(error)}. Views: {views}") from error
        if table is None:
            raise InputError("the query returns no table; use SELECT")
        return table

    def _tables(self, states: Sequence[RunState]) -> dict[str, list[str]]:
        """Return the files of each view."""
        files: dict[str, list[str]] = {}
        for state in states:
            job, run_id = state.manifest.job, state.manifest.run_id
            for name in self._storage.names(f"{job}/{run_id}"):
                if name.endswith(".parquet"):
                    view = f"{job}_{name.removesuffix('.parquet')}"
                    files.setdefault(view, []).append(self._storage.url(job, run_id, name))
        return files

    def _make_view(self, view: str, files: Sequence[str]) -> None:
        """Create a view on first use, since that opens all its files."""
        listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        self._connection.sql(
            f'CREATE VIEW IF NOT EXISTS "{view}" AS SELECT parse_path(filename)[-2] AS run_id, * EXCLUDE filename '
            f"FROM read_parquet([{listed}], union_by_name = true, filename = true)"
        )


def _row(run: RunState) -> dict[str, object]:
    manifest = run.manifest
    values = {name: getattr(manifest, name) for name in RUNS.names if hasattr(manifest, name)}
    as_json = {name: json.dumps(values[name], default=str) for name in ("config", "fingerprints", "facts", "counts")}
    return values | as_json | {"state": run.state, "seconds": sum(manifest.timings.values())}
