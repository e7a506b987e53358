"""Job classes, and names of jobs whose code is imported when it is needed."""

import pkgutil
import threading
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rich.console import Console

from stratoscope.phases import phase
from stratoscope.pipelines.runtime.config import JobConfig
from stratoscope.pipelines.runtime.job import Job
from stratoscope.pipelines.runtime.terminal import Terminal
from stratoscope.results import Run

Config = TypeVar("Config", bound=JobConfig)


class JobMaker(Protocol[Config]):
    """A job class, or a factory that chooses among several with a common configuration."""

    @property
    def name(self) -> str:
        """The name of the job."""

    @property
    def config_class(self) -> type[JobConfig]:
        """The class of its configuration."""

    def __call__(
        self, config: Config, terminal: Terminal | None = None, stopping: threading.Event | None = None, /
    ) -> Job[Config]:
        """Create the job."""

    def show(self, run: Run, console: Console, /) -> None:
        """Print the main findings of a finished run."""


@dataclass(frozen=True)
class LazyJob:
    """A `JobMaker` for a named job. The job's code is imported when it creates the job or shows a run."""

    name: str
    source: str
    """Location of the job class or job factory, as `module:name`."""
    config_source: str
    """Location of its configuration class, which is imported without the job."""

    @property
    def maker(self) -> JobMaker[Any]:
        """The job class, or a factory that creates the job from its configuration."""
        maker: JobMaker[Any] = pkgutil.resolve_name(self.source)
        return maker

    @property
    def config_class(self) -> type[JobConfig]:
        """Configuration class of the job."""
        config_class: type[JobConfig] = pkgutil.resolve_name(self.config_source)
        return config_class

    def __call__(
        self, config: Any, terminal: Terminal | None = None, stopping: threading.Event | None = None, /
    ) -> Job[Any]:
        """Create the job."""
        with phase("loading libraries", quick=True):
            maker = self.maker
        return maker(config, terminal, stopping)

    def show(self, run: Run, console: Console, /) -> None:
        """Print the main findings of a finished run."""
        self.maker.show(run, console)
