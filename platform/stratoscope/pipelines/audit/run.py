"""The flow of the audit job: steps -> processes -> comparison with the nights before -> page and alerts."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from stratoscope.pipelines.audit import alerts, tables
from stratoscope.pipelines.audit.assess import SCORE, Assessment, assess, kind_of
from stratoscope.pipelines.audit.config import AuditConfig
from stratoscope.pipelines.audit.previous_runs import JOB, MOST_NIGHTS, TABLE, earlier_nights, key_figures, last_found
from stratoscope.pipelines.audit.report import build_page, summary_table
from stratoscope.pipelines.audit.schedule import Scheduler
from stratoscope.pipelines.audit.steps import PROCESSES, Step, StepEnd, StepStore, all_steps
from stratoscope.pipelines.runtime.job import STOP_GRACE_S, Job
from stratoscope.results import Manifest, Run, from_rows, read_table, write_table


class AuditJob(Job[AuditConfig]):
    """Runs stages over models and forecasters, and compares what they find with the nights before."""

    name: ClassVar[str] = JOB
    config_class = AuditConfig
    stop_grace_s: ClassVar[float] = STOP_GRACE_S + 15
    """Longer than that of the stages, which stop first."""

    steps: list[Step]

    def prepare(self) -> None:
        """See that every stage of every model and forecaster is configured well, and that alerts can be sent."""
        alerts.check_destinations(self.config.destinations)
        self.steps = all_steps(self.config, self.context.folder.run_id)

    def plan(self) -> Sequence[tuple[str, str]]:
        """Return the steps, and what each waits for."""
        known = last_found(self.config.output, self._nights())
        lines = []
        for step in self.steps:
            waits = f", after {', '.join(step.after)}" if step.after else ""
            earlier = known.get((step.subject.called, step.stage.name))
            since = f"last done in {earlier.night}" if earlier else "for the first time"
            lines.append((f"{step.subject.called}, {step.stage.name}", f"{since}{waits}"))
        return [*lines, ("work", f"{len(self.steps)} stages, each a run of its own under {self.config.output}")]

    def execute(self) -> None:
        """Run what has not been done, compare, and tell."""
        store = StepStore(self.context.storage)
        with self.context.stage("stages"):
            ends = self._run(store)
        with self.context.stage("compare"):
            nights = self._nights()
            known = last_found(self.config.output, nights)
            found = [self._assess(step, ends[step.key], known) for step in self.steps]
            previous = nights[0].run_id if nights else None
        with self.context.stage("report"):
            self._write(found)
            page = build_page(found, self.context.manifest, list(self._trends(nights, found)), previous)
            self.context.write_report(page)
        told = alerts.summary(found, self.context.manifest, previous, self.context.url)
        self.exit_code = told["exit_code"]
        with self.context.stage("alerts"):
            self._tell(told)
        self.context.manifest.facts["headline"] = told["headline"]
        self.context.manifest.counts = {
            "stages": len(found),
            "computed": sum(a.end.status == "done" for a in found),
            "reused": sum(a.end.status == "reused" for a in found),
            "lost": sum(not a.end.fine for a in found),
            "regressions": sum(len(a.regressions) for a in found),
        }

    @staticmethod
    def show(run: Run, console: Console) -> None:
        """Print the grid and what got worse."""
        summary = json.loads(run.storage.read("summary.json"))
        console.print(summary_table(read_table(run.storage, "models").to_pylist()))
        console.print(summary["headline"], soft_wrap=True)
        for step in summary["steps"]:
            where = f"{step['model']}, {step['stage']}"
            for text in step["regressions"]:
                console.print(f"regression: {where}: {text}", soft_wrap=True, markup=False)
            if step["error"]:
                console.print(f"{step['status']}: {where}: {step['error']}", soft_wrap=True, markup=False)
        for trouble in run.manifest.facts.get("untold", ()):
            console.print(trouble, soft_wrap=True)
        console.print(f"report: {run.report_url}", soft_wrap=True)

    def _run(self, store: StepStore) -> dict[str, StepEnd]:
        ends = store.read()
        fine = {key: end for key, end in ends.items() if end.fine}
        console = self.context.console
        with ExitStack() as stack:
            folder = stack.enter_context(self._process_folder())
            bar = stack.enter_context(self.context.progress(self.name, len(self.steps), len(fine), "stages"))
            scheduler = Scheduler(self.config, folder, self.context.stopping)
            running = stack.enter_context(closing(scheduler.run(self.steps, ends)))
            for step, end in running:
                ends[step.key] = end
                store.write(step.key, end)
                bar.add()
                trouble = f": {end.error}" if end.error else ""
                console.print(
                    f"{step.subject.called}, {step.stage.name}: {end.status} in {end.seconds:,.0f} s{trouble}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
        return ends

    def _nights(self) -> list[Manifest]:
        config = self.config
        return earlier_nights(config.output, config.name, self.context.manifest.started, self.context.folder.run_id)

    def _assess(self, step: Step, end: StepEnd, known: dict[tuple[str, str], Any]) -> Assessment:
        earlier = known.get((step.subject.called, step.stage.name))
        # The level holds for a night, so its models share it.
        tested = sum(step.stage.job.name == SCORE for step in self.steps)
        thresholds = self.config.thresholds
        shared = thresholds.model_copy(update={"level": thresholds.level / max(1, tested)})
        return assess(step, end, earlier, output=self.config.output, thresholds=shared, seed=self.config.seed)

    def _write(self, found: Sequence[Assessment]) -> None:
        storage = self.context.storage
        figures = [row for a in found for row in _figure_rows(a)]
        write_table(storage, "figures", from_rows(figures, tables.FIGURES))
        write_table(storage, "drift", from_rows([row for a in found for row in _drift_rows(a)], tables.DRIFT))
        # Later nights look for this one: all else is there when it is.
        write_table(storage, TABLE, from_rows([_model_row(a) for a in found], tables.MODELS))

    def _trends(self, nights: Sequence[Manifest], found: Sequence[Assessment]) -> Iterator[dict[str, object]]:
        """Yield the key figures of nights, the earliest first."""
        for night in reversed(nights[: MOST_NIGHTS - 1]):
            yield from ({**row, "night": _short(night)} for row in key_figures(self.config.output, night))
        for a in found:
            for row in _figure_rows(a):
                yield {**dict(zip(tables.FIGURES.names, row, strict=True)), "night": _short(self.context.manifest)}

    def _tell(self, told: dict[str, Any]) -> None:
        storage, destinations = self.context.storage, self.config.destinations
        # Whoever waits for these files is not to wait for a server.
        storage.write("summary.json", json.dumps(told, indent=2).encode())
        storage.write("summary.md", alerts.markdown(told).encode())
        storage.write("junit.xml", alerts.junit(told))
        troubles = [
            alerts.send_webhook(told, destinations) if destinations.webhook else None,
            alerts.send_mlflow(told, destinations) if destinations.mlflow else None,
        ]
        self.context.manifest.facts["untold"] = [trouble for trouble in troubles if trouble]

    @contextmanager
    def _process_folder(self) -> Iterator[Path]:
        """Yield a local folder for processes; on an object store its files go to the run when the block ends."""
        local = self.context.storage.local_path(PROCESSES)
        if local is not None:
            local.mkdir(parents=True, exist_ok=True)
            yield local
            return
        with tempfile.TemporaryDirectory(prefix="stratoscope-") as folder:
            try:
                yield Path(folder)
            finally:
                for file in Path(folder).iterdir():
                    self.context.storage.write(f"{PROCESSES}/{file.name}", file.read_bytes())


def _short(night: Manifest) -> str:
    """Return what a night is called on an axis."""
    return f"{night.started[:16].replace('T', ' ')} {night.run_id}"


def _model_row(a: Assessment) -> tuple[object, ...]:
    m = a.manifest
    moved = [abs(s.shift) for s in a.drift.shifts if s.moved] if a.drift else []
    return (
        a.subject,
        kind_of(a.step),
        a.step.stage.name,
        a.end.status,
        a.verdict,
        a.end.error,
        m.job if m else None,
        m.run_id if m else None,
        a.end.seconds,
        a.gpu_hours,
        m.peak_memory_bytes if m else None,
        a.earlier.night if a.earlier else None,
        list(a.changed),
        list(a.regressions),
        max(moved, default=0.0) if a.drift else None,
        [(c.figure.name, c.figure.value) for c in a.compared],
    )


def _figure_rows(a: Assessment) -> Iterator[tuple[object, ...]]:
    for c in a.compared:
        f = c.figure
        yield (
            a.subject,
            a.step.stage.name,
            f.name,
            f.kind,
            f.value,
            f.low,
            f.high,
            c.before.value if c.before else None,
            c.loss,
            c.threshold,
            c.regressed,
        )


def _drift_rows(a: Assessment) -> Iterator[tuple[object, ...]]:
    if a.drift is None:
        return
    for s in a.drift.shifts:
        where = (a.subject, a.step.stage.name, a.drift.design)
        yield (*where, s.tap, s.layer, s.shift, s.low, s.high, s.p_value, s.moved)
