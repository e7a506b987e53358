"""The command `stratoscope runs`: the runs in an output folder, with their state and progress."""

from collections.abc import Sequence

from rich.table import Table

from stratoscope.pipelines.commands.job_option import check_job
from stratoscope.pipelines.runtime.command_line import parse_command_line
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.terminal import stdout_console
from stratoscope.pipelines.runtime.validators import Place
from stratoscope.results import RunState, list_runs


class RunsConfig(ConfigSection):
    """List runs with their state and progress."""

    output: Place = "runs"
    """Folder or fsspec URL (s3://...) that holds all runs."""
    job: str | None = None
    """Job whose runs are listed; null lists all."""


def show_runs(arguments: Sequence[str]) -> None:
    """Print one line per run.

    Raises:
        InputError: an argument is unknown, or the output cannot be used.
    """
    config = parse_command_line(RunsConfig, "runs", arguments)
    check_job(config.job, config.output)
    table = Table("job", "run_id", "state", "started", "progress", "errors", "rate", "worker", box=None)
    for run in list_runs(config.output, config.job):
        table.add_row(*_row(run))
    console = stdout_console()
    if table.row_count:
        console.print(table)
    else:
        console.print(f"no runs in {config.output}")


def _row(run: RunState) -> tuple[str, ...]:
    manifest, progress = run.manifest, run.progress
    errors = manifest.counts.get("errors", progress.get("errors"))
    columns = (manifest.job, manifest.run_id, run.state, manifest.started, _progress_text(run), _text(errors))
    if run.holder is None:
        return (*columns, "", "")
    rate = f"{progress['rate']:,.1f} {progress.get('unit', '')}/s" if "rate" in progress else ""
    return (*columns, rate, f"process {run.holder.pid} on {run.holder.host}")


def _progress_text(run: RunState) -> str:
    progress, counts = run.progress, run.manifest.counts
    if "total" in progress:
        return f"{progress['done']:.0f}/{progress['total']:.0f} {progress.get('unit', '')}".rstrip()
    if run.holder is not None:
        return "starting"
    # Manifests of version 0.1.0 and earlier record no progress.
    return f"{counts['prompts']}/{run.manifest.facts.get('num_prompts')} prompts" if "prompts" in counts else ""


def _text(count: float | None) -> str:
    return "" if count is None else f"{count:.0f}"
