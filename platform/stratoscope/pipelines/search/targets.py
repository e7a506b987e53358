"""The targets of a search. Each target is a separate job."""

import threading
from typing import ClassVar

from rich.console import Console

from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.terminal import Terminal
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.eavss.run import DefinitionSearch
from stratoscope.pipelines.search.pruning.run import PruningSearch
from stratoscope.results import Run

TARGETS: dict[str, type[Job[SearchConfig]]] = {"pruning": PruningSearch, "eavss": DefinitionSearch}


class Search:
    """Creates the job for the target of a search."""

    name: ClassVar[str] = "search"
    config_class: ClassVar[type[SearchConfig]] = SearchConfig

    def __call__(
        self, config: SearchConfig, terminal: Terminal | None = None, stopping: threading.Event | None = None
    ) -> Job[SearchConfig]:
        """Return the job for the target."""
        return TARGETS[config.target](config, terminal, stopping)

    def show(self, run: Run, console: Console) -> None:
        """Print the main findings of a finished search."""
        TARGETS[run.manifest.config.get("target", "pruning")].show(run, console)


SEARCH = Search()
"""The `JobMaker` of all search jobs."""
