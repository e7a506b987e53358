"""The command `stratoscope report`: the results of a run, and the location of its page."""

import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator
from pydantic_settings import CliPositionalArg

from stratoscope.errors import InputError
from stratoscope.pipelines.commands.job_option import check_job
from stratoscope.pipelines.jobs import job_maker
from stratoscope.pipelines.runtime.command_line import parse_command_line
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.run_lookup import find_run, refuse_unreadable
from stratoscope.pipelines.runtime.terminal import stdout_console
from stratoscope.pipelines.runtime.validators import Place
from stratoscope.results import Run, Storage, list_runs
from stratoscope.results.run import REPORT


class ReportConfig(ConfigSection):
    """Show the results of a run, and the location of its report page."""

    run: CliPositionalArg[Place | None] = None
    """Folder, URL or run_id of the run."""
    latest: bool = False
    """Take the run that finished last."""
    job: str | None = None
    """Job to search for the run; null searches all."""
    output: Place = "runs"
    """Folder or fsspec URL (s3://...) that holds all runs."""
    open: bool = False
    """Open the report page in a browser."""

    @model_validator(mode="after")
    def _one(self) -> "ReportConfig":
        if (self.run is None) == (not self.latest):
            raise ValueError("name a run, or give --latest")
        return self


def show_report(arguments: Sequence[str]) -> None:
    """Print a run's summary and the location of its page.

    Raises:
        InputError: an argument is wrong, there is no such run, or this version cannot read the run.
    """
    config = parse_command_line(ReportConfig, "report", arguments)
    check_job(config.job, config.output)
    run = _latest(config) if config.run is None else Run(*find_run(config.run, config.output, config.job))
    if not run.storage.exists(REPORT):
        raise InputError(f"{run.url} has no page: the run is {run.manifest.status}")
    with refuse_unreadable(run):
        job_maker(run.manifest.job).show(run, stdout_console())
    if config.open:
        webbrowser.open(_local_page(run).as_uri())


def _latest(config: ReportConfig) -> Run:
    output = Storage(config.output)
    runs = [
        Run(output.child(state.manifest.job, state.manifest.run_id), state.manifest)
        for state in list_runs(config.output, config.job)
        if state.manifest.finished
    ]
    reported = [run for run in runs if run.storage.exists(REPORT)]
    if not reported:
        raise InputError(f"no finished run of {config.job or 'any job'} in {config.output}")
    return max(reported, key=lambda run: run.manifest.finished or "")


def _local_page(run: Run) -> Path:
    """Return the page as a file on this machine."""
    local = run.storage.local_path(REPORT)
    if local is not None:
        return local
    copy = Path(tempfile.mkdtemp(prefix="stratoscope-")) / REPORT
    copy.write_bytes(run.storage.read(REPORT))
    return copy
