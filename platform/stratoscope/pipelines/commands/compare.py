"""The command `stratoscope compare`: what differs between two runs of a job."""

from collections.abc import Sequence

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stratoscope.errors import InputError
from stratoscope.pipelines.audit.assess import what_changed
from stratoscope.pipelines.audit.config import RegressionThresholdsSection
from stratoscope.pipelines.audit.drift import Drift, drift
from stratoscope.pipelines.audit.key_metrics import finite_figures
from stratoscope.pipelines.audit.stages import STAGES
from stratoscope.pipelines.reporting.formatting import number_text
from stratoscope.pipelines.runtime.config import ConfigSection, load_config
from stratoscope.pipelines.runtime.run_lookup import find_run
from stratoscope.pipelines.runtime.terminal import stdout_console
from stratoscope.results import Manifest, Storage

Run = tuple[Storage, Manifest]


class CompareConfig(ConfigSection):
    """Show what differs between two runs of a job: settings, key figures, and of score runs the layers."""

    runs: CliPositionalArg[list[str]] = Field(min_length=2, max_length=2)
    """The earlier run and the later one: folders or run_ids."""
    output: str = "runs"
    """Folder or fsspec URL (s3://...) that holds all runs."""
    job: str | None = None
    """Only runs of this job."""
    level: float = Field(RegressionThresholdsSection().level, gt=0, lt=1)
    """Of the test of layers, all together."""
    layer_shift: float = Field(RegressionThresholdsSection().layer_shift, ge=0)
    """Smallest change of a layer's log AVSS that matters."""
    seed: int = 0
    """Of the randomisation."""


def show_comparison(arguments: Sequence[str]) -> None:
    """Print what differs.

    Raises:
        InputError: an argument is wrong, a run is not there, or the two are of different jobs.
    """
    config = load_config(CompareConfig, "compare", arguments)
    before, now = (find_run(name, config.output, config.job) for name in config.runs)
    jobs = [run[1].job for run in (before, now)]
    if jobs[0] != jobs[1]:
        raise InputError(
            f"{config.runs[0]!r} is a run of {jobs[0]} and {config.runs[1]!r} of {jobs[1]}; name two of one job"
        )
    console = stdout_console()
    stage = next((stage for stage in STAGES.values() if stage.job.name == jobs[0]), None)
    if stage is None:
        raise InputError(f"runs of {jobs[0]} have no key figures; compare runs of its stages")
    for name, (_, manifest) in zip(config.runs, (before, now), strict=True):
        if manifest.status != "done":
            raise InputError(f"{name!r} is {manifest.status}, not done; only finished runs can be compared")
    changed = what_changed(stage.job.config_class, now[1], before[1])
    console.print(f"changed: {'; '.join(changed.texts) or 'nothing'}", soft_wrap=True, markup=False)
    figures = [{f.name: f for f in finite_figures(stage.figures(*run))} for run in (before, now)]
    table = Table("figure", "before", "now", "change", box=None)
    for name in dict.fromkeys([*figures[0], *figures[1]]):
        old, new = (found[name].value if name in found else None for found in figures)
        change = new - old if old is not None and new is not None else None
        table.add_row(escape(name), *(number_text(v, ".4g") for v in (old, new)), number_text(change, "+.4g"))
    console.print(table)
    if jobs[0] == "score":
        found = drift(now, before, level=config.level, least=config.layer_shift, seed=config.seed)
        _show_layers(found, console)


def _show_layers(found: Drift | str, console: Console) -> None:
    if isinstance(found, str):
        console.print(f"layers were not compared: {found}")
        return
    for tap, correlation in found.rank_correlation.items():
        console.print(f"order of layers at tap {tap}: rank correlation {correlation:.3f}")
    if found.reweighted:
        console.print(f"layers whose weights differ: {', '.join(map(str, found.reweighted))}")
    console.print(f"layers that moved on {found.design} ({found.prompts}): {len(found.moved)}")
    if found.moved:
        table = Table("tap", "layer", "shift of log AVSS", "interval", "p", box=None)
        for s in found.shifts:
            if s.moved:
                interval = f"{s.low:+.3f} to {s.high:+.3f}"
                table.add_row(s.tap, str(s.layer), f"{s.shift:+.3f}", interval, f"{s.p_value:.4f}")
        console.print(table)
