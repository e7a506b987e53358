"""Results: the run folder, its manifest, its tables, and the building blocks of a report."""

from stratoscope.results.figures import COLOURS, INK, MUTED, PAPER, SYMBOLS, data_range, integer_step, style
from stratoscope.results.glossary import TERMS
from stratoscope.results.history import History
from stratoscope.results.lease import Lease, LeaseHolder, LeaseLostError, check_not_held, read_holder
from stratoscope.results.listing import RunState, list_runs
from stratoscope.results.manifest import Manifest, package_versions
from stratoscope.results.parquet import (
    damaged_table,
    from_parquet,
    from_rows,
    iter_table,
    read_parquet,
    read_table,
    table_writer,
    to_parquet,
    write_table,
)
from stratoscope.results.report import Page, PageSection, Table, TableCell, render
from stratoscope.results.rows import ByTask, Column, Int16, Int32, TableRow
from stratoscope.results.run import Run
from stratoscope.results.run_folder import RunFolder, check_reachable, new_run_id
from stratoscope.results.shards import ShardResult, ShardStore, StoreOffer
from stratoscope.results.storage import Storage

__all__ = [
    "COLOURS",
    "INK",
    "MUTED",
    "PAPER",
    "SYMBOLS",
    "TERMS",
    "ByTask",
    "Column",
    "History",
    "Int16",
    "Int32",
    "Lease",
    "LeaseHolder",
    "LeaseLostError",
    "Manifest",
    "Page",
    "PageSection",
    "Run",
    "RunFolder",
    "RunState",
    "ShardResult",
    "ShardStore",
    "Storage",
    "StoreOffer",
    "Table",
    "TableCell",
    "TableRow",
    "check_not_held",
    "check_reachable",
    "damaged_table",
    "data_range",
    "from_parquet",
    "from_rows",
    "integer_step",
    "iter_table",
    "list_runs",
    "new_run_id",
    "package_versions",
    "read_holder",
    "read_parquet",
    "read_table",
    "render",
    "style",
    "table_writer",
    "to_parquet",
    "write_table",
]
