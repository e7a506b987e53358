"""All runs of an output folder as SQL views. The views read the run folders; no other state is kept."""

import glob
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
        ("peak_gpu_memory_bytes", pa.int64()),
        ("identity", pa.string()),
        ("config", pa.string()),
        ("fingerprints", pa.string()),
        ("facts", pa.string()),
        ("counts", pa.string()),
    ]
)
"""One row per run; nested values are JSON."""
READING = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)
"""Types of statements that only read; PIVOT is a MULTI statement."""
PROTECTION = (
    "enable_external_access = false",
    "python_enable_replacements = false",
    "lock_configuration = true",
)
"""Settings of DuckDB under which a query reaches no other files and no Python variables, and cannot change that."""
BATCH_ROWS = 100_000


class History:
    """The runs of an output folder, as views of DuckDB.

    The view `runs` has a row per run. Every table of every job is a view called `job_table`, such as
    `score_layer_scores`, over all runs that have it, with the column `run_id`. A column that a run of an older version
    lacks is null in its rows. Queries read these views and nothing else, and write nothing.

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
        self._protect()

    @property
    def views(self) -> list[str]:
        """The names of the views."""
        return ["runs", *sorted(self._files)]

    def query(self, sql: str) -> pa.Table:
        """Return the result of an SQL query.

        Raises:
            InputError: the query is not a single SELECT, is not valid, or names an unknown view or column.
        """
        with self._refusing():
            return self.read(sql, BATCH_ROWS).read_all()

    def read(self, sql: str, batch_rows: int) -> pa.RecordBatchReader:
        """Return a reader of the result of an SQL query, which DuckDB computes as it is read.

        Args:
            sql: the query.
            batch_rows: number of rows of a batch.

        Raises:
            InputError: the query is not a single SELECT, is not valid, or names an unknown view or column.
        """
        with self._refusing():
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type not in READING:
                raise InputError("sql: the query must be a single SELECT; history only reads")
            for view, files in self._files.items():
                if view.lower() in sql.lower():
                    self._make_view(view, files)
            reader: pa.RecordBatchReader = self._connection.sql(sql).to_arrow_reader(batch_rows)
        return reader

    def batches(self, sql: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the result of an SQL query in batches (see `read`)."""
        reader = self.read(sql, batch_rows)
        with self._refusing():
            yield from reader

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Refuse a query that fails in the block."""
        try:
            yield
        except (duckdb.Error, pa.ArrowException) as error:
            views = ", ".join(self.views)
            raise InputError(f"the query failed: {first_line(error)}. Views: {views}") from error

    def _protect(self) -> None:
        """Let queries read the tables of the runs and nothing else, for as long as the connection lasts."""
        paths = [_canonical(path) for files in self._files.values() for path in files]
        # A file is checked by its path, and by the pattern that names it.
        self._connection.execute("SET allowed_paths = $paths", {"paths": [*paths, *map(glob.escape, paths)]})
        for setting in PROTECTION:
            self._connection.execute(f"SET {setting}")

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
        """Create a view on first use, since that opens all its files.

        DuckDB reads paths as patterns, and would take folders such as `seed=7` for columns.
        """
        listed = ", ".join("'" + glob.escape(file).replace("'", "''") + "'" for file in files)
        self._connection.sql(
            f'CREATE VIEW IF NOT EXISTS "{view}" AS SELECT parse_path(filename)[-2] AS run_id, * EXCLUDE filename '
            f"FROM read_parquet([{listed}], union_by_name = true, filename = true, hive_partitioning = false)"
        )


def _canonical(url: str) -> str:
    """Return a URL as DuckDB spells it: the path of fsspec's memory file system begins with a slash."""
    return url.replace("memory://", "memory:///", 1) if re.match("memory://[^/]", url) else url


def _row(run: RunState) -> dict[str, object]:
    manifest = run.manifest
    values = {name: getattr(manifest, name) for name in RUNS.names if hasattr(manifest, name)}
    as_json = {name: json.dumps(values[name], default=str) for name in ("config", "fingerprints", "facts", "counts")}
    return values | as_json | {"state": run.state, "seconds": sum(manifest.timings.values())}
