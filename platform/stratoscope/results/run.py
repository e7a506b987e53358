"""A run as it stands in its folder, finished or not."""

from dataclasses import dataclass

import pyarrow as pa

from stratoscope.results.manifest import Manifest
from stratoscope.results.storage import Storage
from stratoscope.results.tables import read_table

REPORT = "report.html"


@dataclass(frozen=True)
class Run:
    """A run: its files and its manifest. Everything that shows a run works from these alone."""

    storage: Storage
    manifest: Manifest

    @property
    def url(self) -> str:
        """Path or URL of the run's folder."""
        return self.storage.url()

    @property
    def report_url(self) -> str:
        """Path or URL of the report page."""
        return self.storage.url(REPORT)

    def table(self, name: str) -> pa.Table:
        """Read one of the run's tables, such as `prompt_stats` or `trials`.

        Raises:
            FileNotFoundError: the run has no such table.
        """
        return read_table(self.storage, name)
