"""Previous nights: the latest results of each subject and stage in the nights of an audit's name."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TypeVar, cast

from stratoscope.errors import DamagedFileError
from stratoscope.phases import tell
from stratoscope.pipelines.audit.steps import SUCCESS
from stratoscope.results import Manifest, Run, RunFolder, TableRow, list_runs
from stratoscope.scoring import KeyMetric, MetricKind
from stratoscope.tables.audit import KeyMetricRow, StageRow

RowType = TypeVar("RowType", bound=TableRow)
JOB, TABLE = "audit", "models"
MAX_NIGHTS = 60
"""Maximum number of previous nights that are considered."""


@dataclass(frozen=True)
class PreviousResult:
    """The latest result of a subject's stage in a previous night."""

    night: str
    """Run_id of the night."""
    job: str
    run_id: str
    """Run_id of the stage's run."""
    metrics: dict[str, KeyMetric]
    """Key metrics by name."""

    def open(self, output: str) -> Run | None:
        """Return the stage's run, or None if it has been removed or is damaged."""
        folder = RunFolder(output, self.job, self.run_id)
        try:
            manifest = folder.read_manifest()
        except DamagedFileError as error:
            tell(f"{error}; this night is not compared with it")
            return None
        return None if manifest is None else Run(folder.storage, manifest)


def previous_nights(output: str, name: str, before: str, run_id: str) -> list[Run]:
    """Return the complete audits with a given name, the latest first.

    Args:
        output: folder that holds all runs.
        name: name of the audit.
        before: start time of this night; nights that started later are left out.
        run_id: run_id of this night.
    """
    nights = [
        night
        for state in list_runs(output, JOB)
        if state.manifest.config.get("name") == name
        and state.manifest.run_id != run_id
        and state.manifest.started <= before
        and (night := _open(output, state.manifest)).storage.exists(f"{TABLE}.parquet")
    ]
    return sorted(nights, key=lambda night: night.manifest.started, reverse=True)


def latest_results(nights: list[Run]) -> dict[tuple[str, str], PreviousResult]:
    """Return the latest result of each subject and stage; a night with a damaged table is left out, with a note.

    Args:
        nights: previous nights, the latest first.
    """
    results: dict[tuple[str, str], PreviousResult] = {}
    for night in nights[:MAX_NIGHTS]:
        rows = [row for row in _rows(night, TABLE, StageRow) or () if row.status in SUCCESS and row.stage_run_id]
        missing = [row for row in rows if (row.model, row.stage) not in results]
        metric_rows = previous_metrics(night) if missing else None
        if metric_rows is None:
            continue
        metrics = _metrics_by_stage(metric_rows)
        for row in missing:
            key = (row.model, row.stage)
            results[key] = PreviousResult(
                night.manifest.run_id, str(row.job), str(row.stage_run_id), metrics.get(key, {})
            )
    return results


def previous_metrics(night: Run) -> list[KeyMetricRow] | None:
    """Return the key metrics of a night, or None with a note if they cannot be read."""
    return _rows(night, "figures", KeyMetricRow)


def _rows(night: Run, table: str, row_type: type[RowType]) -> list[RowType] | None:
    try:
        return row_type.read(night.table(table))
    except (DamagedFileError, FileNotFoundError) as error:
        tell(f"{error}; the night {night.manifest.run_id} is left out of comparisons")
        return None


def _metrics_by_stage(rows: list[KeyMetricRow]) -> dict[tuple[str, str], dict[str, KeyMetric]]:
    metrics: dict[tuple[str, str], dict[str, KeyMetric]] = defaultdict(dict)
    for row in rows:
        kind = cast("MetricKind", row.kind or "fact")
        metrics[row.model, row.stage][row.figure] = KeyMetric(row.figure, row.value, kind, row.ci_low, row.ci_high)
    return metrics


def _open(output: str, manifest: Manifest) -> Run:
    return Run(RunFolder(output, JOB, manifest.run_id).storage, manifest)
