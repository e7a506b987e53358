"""The command `stratoscope compare`: the differences between two runs of a job."""

import math
from collections.abc import Sequence

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stratoscope.errors import InputError
from stratoscope.pipelines.audit.assess import SCORE, find_changes
from stratoscope.pipelines.audit.config import RegressionThresholdsSection
from stratoscope.pipelines.audit.layer_drift import layer_drift
from stratoscope.pipelines.audit.stages import STAGES, Stage
from stratoscope.pipelines.commands.job_option import check_job
from stratoscope.pipelines.reporting.formatting import number_text
from stratoscope.pipelines.runtime.command_line import parse_command_line
from stratoscope.pipelines.runtime.config import ConfigSection
from stratoscope.pipelines.runtime.run_lookup import find_run, refuse_unreadable
from stratoscope.pipelines.runtime.terminal import stdout_console
from stratoscope.pipelines.runtime.validators import Fraction, NotNegative, Place, Seed
from stratoscope.results import Run
from stratoscope.scoring.drift import Drift, NotComparableError
from stratoscope.scoring.regression import finite_metrics


class CompareConfig(ConfigSection):
    """Show the differences between two runs of a job: settings, key metrics, and the layers of score runs."""

    runs: CliPositionalArg[list[Place]] = Field(min_length=2, max_length=2)
    """The earlier run and the later run: folders or run_ids."""
    output: Place = "runs"
    """Folder or fsspec URL (s3://...) that holds all runs."""
    job: str | None = None
    """Job to search for the runs; null searches all."""
    level: Fraction = RegressionThresholdsSection().level
    """Significance level of the test of layers, for all layers together."""
    layer_shift: NotNegative = RegressionThresholdsSection().layer_shift
    """Smallest change of a layer's log AVSS that counts."""
    seed: Seed = 0
    """Seed of the randomization test."""


def show_comparison(arguments: Sequence[str]) -> None:
    """Print the differences.

    Raises:
        InputError: an argument is wrong, a run is missing or cannot be read, or the runs are of different jobs.
    """
    config = parse_command_line(CompareConfig, "compare", arguments)
    check_job(config.job, config.output)
    before, now = (Run(*find_run(name, config.output, config.job)) for name in config.runs)
    stage = _common_stage(config.runs, before, now)
    console = stdout_console()
    changes = find_changes(stage.job.config_class, now.manifest, before.manifest)
    console.print(f"changed: {'; '.join(changes.texts) or 'nothing'}", soft_wrap=True, markup=False)
    with refuse_unreadable(before), refuse_unreadable(now):
        console.print(_metric_table(stage, before, now))
        if stage.job.name == SCORE:
            _show_layers(config, before, now, console)


def _common_stage(names: Sequence[str], before: Run, now: Run) -> Stage:
    """Return the stage whose job made both runs.

    Raises:
        InputError: the runs cannot be compared.
    """
    jobs = [run.manifest.job for run in (before, now)]
    if jobs[0] != jobs[1]:
        raise InputError(f"{names[0]!r} is a run of {jobs[0]} and {names[1]!r} of {jobs[1]}; name two of one job")
    stage = next((stage for stage in STAGES.values() if stage.job.name == jobs[0]), None)
    if stage is None:
        raise InputError(f"runs of {jobs[0]} have no key metrics; compare runs of its stages")
    for name, run in zip(names, (before, now), strict=True):
        if run.manifest.status != "done":
            raise InputError(f"{name!r} is {run.manifest.status}, not done; only finished runs can be compared")
    return stage


def _metric_table(stage: Stage, before: Run, now: Run) -> Table:
    old, new = ({m.name: m.value for m in finite_metrics(stage.figures(run))} for run in (before, now))
    table = Table("figure", "before", "now", "change", box=None)
    for name in {**old, **new}:
        values = old.get(name), new.get(name)
        change = None if values[0] is None or values[1] is None else values[1] - values[0]
        table.add_row(escape(name), *(number_text(v, ".4g") for v in values), number_text(change, "+.4g"))
    return table


def _show_layers(config: CompareConfig, before: Run, now: Run, console: Console) -> None:
    try:
        drift = layer_drift(now, before, level=config.level, min_shift=config.layer_shift, seed=config.seed)
    except NotComparableError as error:
        console.print(f"layers were not compared: {error}")
        return
    for tap, correlation in drift.rank_correlation.items():
        text = f"rank correlation {correlation:.3f}" if math.isfinite(correlation) else "not comparable"
        console.print(f"order of layers at tap {tap}: {text}")
    if drift.reweighted:
        console.print(f"layers whose weights differ: {', '.join(map(str, drift.reweighted))}")
    console.print(f"layers that moved on {drift.design} ({drift.prompts}): {drift.limit or len(drift.moved)}")
    for note in drift.notes:
        console.print(note)
    if drift.moved:
        console.print(_shift_table(drift))


def _shift_table(drift: Drift) -> Table:
    table = Table("tap", "layer", "shift of log AVSS", "interval", "p", box=None)
    for s in drift.shifts:
        if s.moved:
            interval = f"{s.low:+.3f} to {s.high:+.3f}"
            table.add_row(s.tap, str(s.layer), f"{s.shift:+.3f}", interval, f"{s.p_value:.4f}")
    return table
