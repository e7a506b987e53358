"""The nights before: what an audit of the same name found last of each subject and stage."""

from dataclasses import dataclass
from typing import Any

from stratoscope.pipelines.audit.key_metrics import KeyMetric
from stratoscope.pipelines.audit.steps import FINE
from stratoscope.results import Manifest, RunFolder, Storage, list_runs, read_table

JOB, TABLE = "audit", "models"
MOST_NIGHTS = 60
"""That are looked back."""


@dataclass(frozen=True)
class PreviousResult:
    """What the last night that has it found of a subject's stage."""

    night: str
    """Its run_id."""
    job: str
    run_id: str
    figures: dict[str, KeyMetric]

    def open(self, output: str) -> tuple[Storage, Manifest] | None:
        """Return the folder and manifest of the stage's run, or None where it was removed since."""
        folder = RunFolder(output, self.job, self.run_id)
        manifest = folder.read_manifest()
        return None if manifest is None else (folder.storage, manifest)


def earlier_nights(output: str, name: str, before: str, run_id: str) -> list[Manifest]:
    """Return the audits of a name that came to their end, the latest first.

    Args:
        output: that holds all runs.
        name: of the audit.
        before: when this night began; later ones are left out.
        run_id: of this night.
    """
    nights = [
        run.manifest
        for run in list_runs(output, JOB)
        if run.manifest.config.get("name") == name
        and run.manifest.run_id != run_id
        and run.manifest.started <= before
        and _folder(output, run.manifest).exists(f"{TABLE}.parquet")
    ]
    return sorted(nights, key=lambda night: night.started, reverse=True)


def last_found(output: str, nights: list[Manifest]) -> dict[tuple[str, str], PreviousResult]:
    """Return what was found last of each subject and stage."""
    found: dict[tuple[str, str], PreviousResult] = {}
    for night in nights[:MOST_NIGHTS]:
        rows = read_table(_folder(output, night), TABLE).to_pylist()
        fresh = [r for r in rows if r["status"] in FINE and (r["model"], r["stage"]) not in found]
        figures = _by_stage(key_figures(output, night)) if fresh else {}
        for row in fresh:
            key = (row["model"], row["stage"])
            found[key] = PreviousResult(night.run_id, row["job"], row["stage_run_id"], figures.get(key, {}))
    return found


def _by_stage(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, KeyMetric]]:
    found: dict[tuple[str, str], dict[str, KeyMetric]] = {}
    for row in rows:
        figure = KeyMetric(row["figure"], row["value"], row["kind"], row["ci_low"], row["ci_high"])
        found.setdefault((row["model"], row["stage"]), {})[row["figure"]] = figure
    return found


def key_figures(output: str, night: Manifest) -> list[dict[str, Any]]:
    """Return a night's rows of `figures`."""
    rows: list[dict[str, Any]] = read_table(_folder(output, night), "figures").to_pylist()
    return rows


def _folder(output: str, night: Manifest) -> Storage:
    return RunFolder(output, JOB, night.run_id).storage
