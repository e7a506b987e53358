"""The command `stratoscope runs`: what runs there are, and how far."""

from collections.abc import Sequence

from rich.table import Table

from stratoscope.pipelines.runtime.config import ConfigSection, load_config
from stratoscope.pipelines.runtime.terminal import stdout_console
from stratoscope.results import RunState, list_runs


class RunsConfig(ConfigSection):
    """List runs, with the progress of those that somebody works on."""

    output: str = "runs"
    """Folder or fsspec URL (s3://...) that holds all runs."""
    job: str | None = None
    """Only the runs of this job."""


def show_runs(arguments: Sequence[str]) -> None:
    """Print one line per run.

    Raises:
        InputError: an argument is unknown, or the output cannot be used.
    """
    config = load_config(RunsConfig, "runs", arguments)
    table = Table("job", "run_id", "state", "started", "progress", "errors", "prompts/s", "seen", box=None)
    for run in list_runs(config.output, config.job):
        table.add_row(*_row(run))
    console = stdout_console()
    if table.row_count:
        console.print(table)
    else:
        console.print(f"no runs in {config.output}")


def _row(run: RunState) -> tuple[str, ...]:
    manifest = run.manifest
    head = (manifest.job, manifest.run_id, run.state, manifest.started)
    if run.holder is None:
        counts = manifest.counts
        done, total = counts.get("prompts"), manifest.facts.get("num_prompts")
        progress = f"{done}/{total}" if done is not None else ""
        return (*head, progress, str(counts.get("errors", "")), "", "")
    told = run.holder.progress
    progress = f"{told['done']:.0f}/{told['total']:.0f}" if "total" in told else "starting"
    rate = f"{told['rate']:,.1f}" if "rate" in told else ""
    seen = f"process {run.holder.pid} on {run.holder.host}"
    return (*head, progress, f"{told.get('errors', 0):.0f}", rate, seen)
