"""The command `stratoscope report`: what a run found, and where its page is."""

import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator
from pydantic_settings import CliPositionalArg

from stratoscope.errors import InputError
from stratoscope.pipelines.jobs import job_maker
from stratoscope.pipelines.runtime.config import ConfigSection, load_config
from stratoscope.pipelines.runtime.run_lookup import find_run
from stratoscope.pipelines.runtime.terminal import stdout_console
from stratoscope.results import Manifest, Run, Storage, list_runs

PAGE = "report.html"


class ReportConfig(ConfigSection):
    """Show what a finished run found, and where its page is."""

    run: CliPositionalArg[str | None] = None
    """Its folder, URL or run_id."""
    latest: bool = False
    """Take the run that ended last."""
    job: str | None = None
    """Only runs of this job."""
    output: str = "runs"
    """Folder or fsspec URL (s3://...) that holds all runs."""
    open: bool = False
    """Open the page in a browser."""

    @model_validator(mode="after")
    def _one(self) -> "ReportConfig":
        if (self.run is None) == (not self.latest):
            raise ValueError("name a run, or give --latest")
        return self


def show_report(arguments: Sequence[str]) -> None:
    """Print a run's summary and the place of its page.

    Raises:
        InputError: an argument is wrong, or there is no such run.
    """
    config = load_config(ReportConfig, "report", arguments)
    storage, manifest = _latest(config) if config.run is None else find_run(config.run, config.output, config.job)
    run = Run(storage, manifest)
    if not storage.exists(PAGE):
        raise InputError(f"{run.url} has no page: the run is {manifest.status}")
    job_maker(manifest.job).show(run, stdout_console())
    if config.open:
        webbrowser.open(_local(storage).as_uri())


def _latest(config: ReportConfig) -> tuple[Storage, Manifest]:
    outputs = Storage(config.output)
    done = [
        run.manifest
        for run in list_runs(config.output, config.job)
        if run.manifest.finished and outputs.child(run.manifest.job, run.manifest.run_id).exists(PAGE)
    ]
    if not done:
        raise InputError(f"no finished run of {config.job or 'any job'} in {config.output}")
    last = max(done, key=lambda manifest: manifest.finished or "")
    return outputs.child(last.job, last.run_id), last


def _local(storage: Storage) -> Path:
    """Return the page as a file of this machine."""
    local = storage.local_path(PAGE)
    if local is not None:
        return local
    copy = Path(tempfile.mkdtemp(prefix="stratoscope-")) / PAGE
    copy.write_bytes(storage.read(PAGE))
    return copy
