"""What a search is for decides which job it is."""

from typing import ClassVar

from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.terminal import Terminal
from stratoscope.pipelines.search.config import SearchConfig
from stratoscope.pipelines.search.eavss.run import ThresholdSearch
from stratoscope.pipelines.search.pruning.run import SearchJob

TARGETS: dict[str, type[Job[SearchConfig]]] = {"pruning": SearchJob, "eavss": ThresholdSearch}


class Search:
    """Makes the job of a search from its configuration."""

    name: ClassVar[str] = "search"
    config_class: ClassVar[type[SearchConfig]] = SearchConfig

    def __call__(self, config: SearchConfig, terminal: Terminal | None = None) -> Job[SearchConfig]:
        """Return the job of the target."""
        return TARGETS[config.target](config, terminal)
