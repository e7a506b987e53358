"""The list of jobs, which defines the commands, Python functions, scripts in jobs/ and reference pages.

No job is imported here before it is used, so that the command line responds at once.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, NoReturn

from stratoscope.errors import InputError, suggest
from stratoscope.phases import announcing, phase
from stratoscope.process import end_process, say

if TYPE_CHECKING:
    from rich.console import Console

    from stratoscope.pipelines.runtime.config import JobConfig
    from stratoscope.pipelines.runtime.job_maker import JobMaker
    from stratoscope.results import Run, TableRow


@dataclass(frozen=True)
class RegisteredJob:
    """A job by name; its code is imported on first use."""

    name: str
    summary: str
    """Description of the job in one line, for the command-line help."""
    source: str
    """Location of the job class or job factory, as `module:name`."""
    config_source: str = ""
    """Location of its configuration class, which is imported without the job."""
    table_modules: tuple[str, ...] = ()
    """Modules that define the row types of its tables, each in a mapping `TABLES`."""

    @property
    def maker(self) -> "JobMaker[Any]":
        """The job class, or a factory that creates the job from its configuration."""
        maker: JobMaker[Any] = pkgutil.resolve_name(self.source)
        return maker

    @property
    def config_class(self) -> "type[JobConfig]":
        """Configuration class of the job."""
        config_class: type[JobConfig] = pkgutil.resolve_name(self.config_source)
        return config_class

    def run_command(self, arguments: Sequence[str]) -> int:
        """Run the job with command-line arguments and return its exit code.

        The last line on stdout is `run: <path>`; refusals and failures are one line on stderr.
        """
        with announcing(self.name, say), phase("starting", quick=True):
            from stratoscope.pipelines.runtime.command import run_command

            config_class = self.config_class
        return run_command(self.name, config_class, arguments, self._run)

    def main(self) -> NoReturn:
        """Run the job with the arguments of this process, and end the process."""
        end_process(self.run_command(sys.argv[1:]))

    def _run(self, config: "JobConfig") -> int:
        with phase("loading libraries"):
            from stratoscope.pipelines.runtime.launch import run_configured

            maker = self.maker
        return run_configured(maker, config)

    def show(self, run: "Run", console: "Console") -> None:
        """Print the main results of a finished run."""
        self.maker.show(run, console)

    def tables(self) -> "Iterator[tuple[str, str, type[TableRow]]]":
        """Yield module, name and row type of each table."""
        for module in self.table_modules:
            for name, row_type in getattr(importlib.import_module(module), "TABLES", {}).items():
                yield module, name, row_type


@dataclass(frozen=True)
class PluginJob(RegisteredJob):
    """A job that another package provides as a stage of audits."""

    @property
    def maker(self) -> "JobMaker[Any]":
        """The stage's job.

        Raises:
            InputError: the entry point provides no stage, or the stage runs one of the jobs above with other settings.
        """
        from stratoscope.pipelines.audit.stages import STAGES

        if self.name not in STAGES:
            raise InputError(f"stage {self.name!r} ({self.source}) cannot be loaded; the warning above gives the cause")
        maker = STAGES[self.name].job
        if maker.name in JOBS:
            raise InputError(
                f"{self.name!r} is a stage of audits that runs {maker.name}; use 'stratoscope {maker.name}'"
            )
        return maker

    @property
    def config_class(self) -> "type[JobConfig]":
        """Configuration class of the job."""
        return self.maker.config_class


_PACKAGE = "stratoscope.pipelines"
JOBS: dict[str, RegisteredJob] = {
    job.name: job
    for job in (
        RegisteredJob(
            "score",
            "rank the layers of a language model by statistics of their activations",
            f"{_PACKAGE}.score:ScoreJob",
            f"{_PACKAGE}.score.config:ScoreConfig",
            ("stratoscope.tables.score",),
        ),
        RegisteredJob(
            "search",
            "find layers that a language model can do without, and export the pruned model",
            f"{_PACKAGE}.search.targets:SEARCH",
            f"{_PACKAGE}.search.config:SearchConfig",
            ("stratoscope.tables.pruning", "stratoscope.tables.eavss"),
        ),
        RegisteredJob(
            "hallucination",
            "find layers whose activations differ between wrong and right answers",
            f"{_PACKAGE}.hallucination:HallucinationJob",
            f"{_PACKAGE}.hallucination.config:HallucinationConfig",
            ("stratoscope.tables.hallucination",),
        ),
        RegisteredJob(
            "mitigation",
            "fine-tune the layers that hallucinate, or recover a model after layers were dropped",
            f"{_PACKAGE}.mitigation:MitigationJob",
            f"{_PACKAGE}.mitigation.config:MitigationConfig",
            ("stratoscope.tables.mitigation",),
        ),
        RegisteredJob(
            "faithfulness",
            "evaluate whether forecasts survive other seeds and perturbed inputs",
            f"{_PACKAGE}.faithfulness:FaithfulnessJob",
            f"{_PACKAGE}.faithfulness.config:FaithfulnessConfig",
            ("stratoscope.tables.faithfulness",),
        ),
        RegisteredJob(
            "audit",
            "run these jobs on many models, and compare the results with earlier nights",
            f"{_PACKAGE}.audit:AuditJob",
            f"{_PACKAGE}.audit.config:AuditConfig",
            ("stratoscope.tables.audit",),
        ),
    )
}
"""The jobs of this package by name."""


def plugin_jobs() -> dict[str, PluginJob]:
    """Return the jobs of other packages by name, from the entry points in the group `stratoscope.stages`."""
    points = (point for point in entry_points(group="stratoscope.stages") if point.name not in JOBS)
    return {point.name: PluginJob(point.name, _summary(point), point.value) for point in points}


def job_maker(name: str) -> "JobMaker[Any]":
    """Return the job class or job factory with a given name, including jobs of other packages.

    Raises:
        InputError: no installed package has that job.
    """
    if name in JOBS:
        return JOBS[name].maker
    from stratoscope.pipelines.audit.stages import STAGES

    makers = {stage.job.name: stage.job for stage in STAGES.values()}
    if name not in makers:
        raise InputError(f"job {name!r} is unknown{suggest(name, [*JOBS, *makers], 'jobs')}")
    return makers[name]


def _summary(point: EntryPoint) -> str:
    return f"a stage of the package {point.dist.name}" if point.dist else f"a stage, {point.value}"
