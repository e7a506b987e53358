"""The target of a search decides which job carries it out."""

import threading
from typing import ClassVar

from rich.console import Console

from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.terminal import Terminal
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.eavss.run import ThresholdSearch
from stratoscope.pipelines.search.pruning.run import SearchJob
from stratoscope.results import Run

TARGETS: dict[str, type[Job[SearchConfig]]] = {"pruning": SearchJob, "eavss": ThresholdSearch}


class Search:
    """Makes the job of a search from its configuration."""

    name: ClassVar[str] = "search"
    config_class: ClassVar[type[SearchConfig]] = SearchConfig

    def __call__(
        self, config: SearchConfig, terminal: Terminal | None = None, stopping: threading.Event | None = None
    ) -> Job[SearchConfig]:
        """Return the job of the target."""
        return TARGETS[config.target](config, terminal, stopping)

    def show(self, run: Run, console: Console) -> None:
        """Print the main findings of a finished search."""
        TARGETS[run.manifest.config["target"]].show(run, console)


SEARCH = Search()
"""The one maker of search jobs."""
