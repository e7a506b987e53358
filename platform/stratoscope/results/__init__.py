"""Results: the run folder, its manifest, its tables, and the building blocks of a report."""

from stratoscope.results.manifest import Manifest
from stratoscope.results.report import Page, Section, Table, render
from stratoscope.results.run_folder import RunFolder, new_run_id
from stratoscope.results.shards import ShardResult, ShardStore
from stratoscope.results.storage import Storage
from stratoscope.results.tables import from_parquet, from_rows, read_table, to_parquet, write_table

__all__ = [
    "Manifest",
    "Page",
    "RunFolder",
    "Section",
    "ShardResult",
    "ShardStore",
    "Storage",
    "Table",
    "from_parquet",
    "from_rows",
    "new_run_id",
    "read_table",
    "render",
    "to_parquet",
    "write_table",
]
