"""The flow of the audit job: steps -> processes -> comparison with previous nights -> page and alerts."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from stratoscope.pipelines.audit import alerts
from stratoscope.pipelines.audit.assess import SCORE, Assessment, assess
from stratoscope.pipelines.audit.config import AuditConfig, DestinationsSection
from stratoscope.pipelines.audit.previous_runs import (
    JOB,
    MAX_NIGHTS,
    TABLE,
    PreviousResult,
    latest_results,
    previous_metrics,
    previous_nights,
)
from stratoscope.pipelines.audit.report import Trends, build_page, summary_table
from stratoscope.pipelines.audit.rows import metric_rows, shift_rows, stage_row
from stratoscope.pipelines.audit.schedule import Scheduler
from stratoscope.pipelines.audit.steps import PROCESSES, Step, StepResult, StepStore, all_steps, check_resources
from stratoscope.pipelines.reporting.formatting import number_text, size_text
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.runtime.job import STOP_GRACE_S, Job
from stratoscope.results import Manifest, Run, Storage, write_table
from stratoscope.tables.audit import KeyMetricRow, LayerShiftRow, StageRow


class AuditJob(Job[AuditConfig]):
    """Runs stages over models and forecasters, and compares their results with previous nights."""

    name: ClassVar[str] = JOB
    config_class = AuditConfig
    stop_grace_s: ClassVar[float] = STOP_GRACE_S + 15
    """Longer than the grace period of the stages, so that the stages stop first."""
    reads_models: ClassVar[bool] = False

    steps: list[Step]

    @classmethod
    def has_request(cls) -> bool:
        """Return False: every night is a separate run, even if its stages reuse others."""
        return False

    def prepare(self) -> None:
        """Validate the configuration of every stage, and check that alerts can be sent."""
        alerts.check_destinations(self.config.destinations)
        self.steps = all_steps(self.config, self.context.folder.run_id)
        check_resources(self.steps, self.config)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return the steps, each with the steps that it waits for."""
        previous = latest_results(self._previous_nights())
        lines = []
        for step in self.steps:
            result = previous.get((step.subject.display_name, step.stage.name))
            when = f"last done in {result.night}" if result else "for the first time"
            lines.append((step.label, f"{when}, after {', '.join(step.after)}" if step.after else when))
        return [*lines, ("work", f"{len(self.steps)} stages, each a run of its own under {self.config.output}")]

    def execute(self) -> None:
        """Run the missing stages, compare their results, and send alerts."""
        context, config = self.context, self.config
        with context.stage("stages"):
            results = run_steps(self.steps, config, context)
        with context.stage("compare"):
            nights = self._previous_nights()
            previous_night = nights[0].manifest.run_id if nights else None
            assessments = assess_steps(self.steps, results, latest_results(nights), config)
        with context.stage("report"):
            write_tables(context.storage, assessments)
            trends = collect_trends(nights, assessments, context.manifest)
            context.write_report(build_page(assessments, context.manifest, trends, previous_night))
        summary = alerts.summary(assessments, context.manifest, previous_night, context.url)
        self.exit_code = summary["exit_code"]
        with context.stage("alerts"):
            context.manifest.facts["undelivered"] = send_alerts(summary, context.storage, config.destinations)
        context.manifest.facts["headline"] = summary["headline"]
        context.manifest.counts = count_outcomes(assessments)

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the grid of models and stages, and the regressions."""
        summary = run.storage.read_json("summary.json")
        console.print(summary_table(StageRow.read(run.table(TABLE))))
        console.print(summary["headline"], soft_wrap=True)
        for step in summary["steps"]:
            label = f"{step['model']}, {step['stage']}"
            for text in step["regressions"]:
                console.print(f"regression: {label}: {text}", soft_wrap=True, markup=False)
            if step["error"]:
                console.print(f"{step['status']}: {label}: {step['error']}", soft_wrap=True, markup=False)
        # Version 0.1.0 recorded undelivered alerts as untold.
        for error in run.manifest.facts.get("undelivered", run.manifest.facts.get("untold", ())):
            console.print(error, soft_wrap=True)
        console.print(f"report: {run.report_path}", soft_wrap=True)

    def _previous_nights(self) -> list[Run]:
        config = self.config
        return previous_nights(config.output, config.name, self.context.manifest.started, self.context.folder.run_id)


def run_steps(steps: Sequence[Step], config: AuditConfig, context: RunContext) -> dict[str, StepResult]:
    """Run the steps that have not succeeded in an earlier start, and return all results by step key."""
    store = StepStore(context.storage)
    results = store.read()
    num_done = sum(result.succeeded for result in results.values())
    with (
        _process_folder(context.storage) as folder,
        context.progress(JOB, len(steps), num_done, "stages") as bar,
        closing(Scheduler(config, folder, context.stopping).run(steps, results)) as finished,
    ):
        for step, result in finished:
            results[step.key] = result
            store.write(step.key, result)
            bar.add()
            error = f": {result.error}" if result.error else ""
            cost = f"{result.seconds:,.0f} s, {number_text(result.cpu_hours, '.3f')} CPU hours"
            text = f"{step.label}: {result.status} in {cost}, {size_text(result.num_bytes)}{error}"
            context.console.print(text, highlight=False, markup=False, soft_wrap=True)
    return results


@contextmanager
def _process_folder(storage: Storage) -> Iterator[Path]:
    """Yield a local folder for the files of processes. On an object store, they are uploaded when the block ends."""
    local = storage.local_path(PROCESSES)
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="stratoscope-") as folder:
        try:
            yield Path(folder)
        finally:
            for file in Path(folder).iterdir():
                storage.write(f"{PROCESSES}/{file.name}", file.read_bytes())


def assess_steps(
    steps: Sequence[Step],
    results: Mapping[str, StepResult],
    previous: Mapping[tuple[str, str], PreviousResult],
    config: AuditConfig,
) -> list[Assessment]:
    """Compare the results of all steps with those of previous nights."""
    # The significance level applies to the whole night, so it is divided among the score runs.
    num_tests = max(1, sum(step.stage.job.name == SCORE for step in steps))
    thresholds = config.thresholds.model_copy(update={"level": config.thresholds.level / num_tests})
    return [
        assess(
            step,
            results[step.key],
            previous.get((step.subject.display_name, step.stage.name)),
            output=config.output,
            thresholds=thresholds,
            seed=config.seed,
        )
        for step in steps
    ]


def write_tables(storage: Storage, assessments: Sequence[Assessment]) -> None:
    """Write the tables of a night."""
    write_table(storage, "figures", KeyMetricRow.table(row for a in assessments for row in metric_rows(a)))
    write_table(storage, "drift", LayerShiftRow.table(row for a in assessments for row in shift_rows(a)))
    # Later nights look for this table, so it is written last.
    write_table(storage, TABLE, StageRow.table(map(stage_row, assessments)))


def collect_trends(nights: Sequence[Run], assessments: Sequence[Assessment], manifest: Manifest) -> Trends:
    """Return the key metrics by night, in chronological order, without nights whose metrics cannot be read.

    Args:
        nights: previous nights, the latest first.
        assessments: the assessed steps of this night.
        manifest: manifest of this night.
    """
    trends = {
        _night_label(night.manifest): metrics
        for night in reversed(nights[: MAX_NIGHTS - 1])
        if (metrics := previous_metrics(night)) is not None
    }
    return trends | {_night_label(manifest): [row for a in assessments for row in metric_rows(a)]}


def _night_label(manifest: Manifest) -> str:
    return f"{manifest.started[:16].replace('T', ' ')} {manifest.run_id}"


def send_alerts(summary: Mapping[str, Any], storage: Storage, destinations: DestinationsSection) -> list[str]:
    """Write a night's summary to its folder, send it to the destinations, and return what could not be delivered."""
    # The files are written first, so that their readers do not have to wait for a server.
    storage.write("summary.json", json.dumps(summary, indent=2).encode())
    storage.write("summary.md", alerts.markdown(summary).encode())
    storage.write("junit.xml", alerts.junit(summary))
    errors = [
        alerts.send_webhook(summary, destinations) if destinations.webhook else None,
        alerts.send_mlflow(summary, destinations) if destinations.mlflow else None,
    ]
    return [error for error in errors if error]


def count_outcomes(assessments: Sequence[Assessment]) -> dict[str, int]:
    """Return the counts that the manifest records."""
    statuses = [a.result.status for a in assessments]
    return {
        "stages": len(assessments),
        "computed": statuses.count("done"),
        "reused": statuses.count("reused"),
        "lost": sum(not a.result.succeeded for a in assessments),
        "regressions": sum(len(a.regressions) for a in assessments),
    }
