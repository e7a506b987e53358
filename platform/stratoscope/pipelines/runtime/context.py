"""The context of a run: what its steps share, regardless of the job."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from stratoscope.errors import RunError
from stratoscope.execution import Meter, Reporter, progress
from stratoscope.phases import phase
from stratoscope.pipelines.runtime.terminal import Terminal
from stratoscope.results import Lease, Manifest, Page, Run, RunFolder, Storage, render
from stratoscope.results.run import REPORT

TUNE = "tune"
"""Prefix of the folders in a run that Ray Tune writes to."""


class RunContext:
    """The folder, manifest, terminal, lease, stop signal and stage timer of one run.

    A job owns it and passes it to the functions that carry out parts of the run.

    Args:
        folder: the run's folder.
        manifest: the run's manifest, which steps add to.
        terminal: shows progress.
        stopping: an event that is set on SIGTERM. Then work in progress ends, and no further work starts.
    """

    def __init__(
        self, folder: RunFolder, manifest: Manifest, terminal: Terminal, stopping: threading.Event | None = None
    ) -> None:
        self.folder, self.manifest, self.terminal = folder, manifest, terminal
        self.stopping = stopping or threading.Event()
        self.lease: Lease | None = None
        """The lease on the folder, while the run is being computed."""

    @property
    def storage(self) -> Storage:
        """The files of the run."""
        return self.folder.storage

    @property
    def url(self) -> str:
        """Path or URL of the run's folder."""
        return self.folder.url

    @property
    def console(self) -> Console:
        """The console that shows progress."""
        return self.terminal.console

    @property
    def run(self) -> Run:
        """The run as seen by readers."""
        return Run(self.storage, self.manifest)

    @contextmanager
    def stage(self, name: str, text: str | None = None, *, quick: bool = False) -> Iterator[None]:
        """Announce a stage, and add its time to the manifest.

        Args:
            name: name of the stage in the manifest.
            text: the stage in words; None takes its name.
            quick: whether the stage is announced only if it takes some time.

        Raises:
            RunError: SIGTERM has stopped the run.
        """
        if self.stopping.is_set():
            raise RunError(
                f"stopped by SIGTERM before the stage {name}; repeat the command with the same run_id to resume"
            )
        start = time.perf_counter()
        try:
            with phase(text or name, quick=quick):
                yield
        finally:
            timings = self.manifest.timings
            timings[name] = round(timings.get(name, 0.0) + time.perf_counter() - start, 3)

    @contextmanager
    def progress(
        self, title: str, total: int, done: int, unit: str, size: str | None = None
    ) -> Iterator["RunProgress"]:
        """Show progress, and publish it with the lease and in the manifest, while the block runs.

        Args:
            title: label of the progress bar.
            total: number of units of work.
            done: number of units that an earlier start has finished.
            unit: name of a unit, in the plural.
            size: name of what the size of a unit counts, in the plural; None if units have no size.
        """
        meter = Meter(total, done, unit, size or unit)
        with progress(meter, title, self.console) as reporter, phase("", extent=lambda: meter.state):
            bar = RunProgress(meter, reporter, self.manifest, self.lease, unit)
            bar.publish()
            yield bar

    def write_report(self, page: Page) -> None:
        """Write the run's report page."""
        self.storage.write(REPORT, render(page))


class RunProgress:
    """Progress of a stage, shown on the console and published for `stratoscope runs`.

    Args:
        meter: counts finished units.
        reporter: shows the meter.
        manifest: records the progress, for readers of a run that is no longer running.
        lease: publishes the progress of a running run; None outside a run.
        unit: name of a unit, in the plural.
    """

    def __init__(self, meter: Meter, reporter: Reporter, manifest: Manifest, lease: Lease | None, unit: str) -> None:
        self._meter, self._reporter, self._manifest, self._lease, self._unit = meter, reporter, manifest, lease, unit

    @property
    def done(self) -> int:
        """Number of finished units, including those of earlier starts."""
        return self._meter.done

    def add(self, units: int = 1, size: float | None = None, *, errors: int = 0) -> None:
        """Count finished units.

        Args:
            units: number of units.
            size: total size of the units; None if each unit has size 1.
            errors: number of all errors so far.

        Raises:
            LeaseLostError: another process has taken over the run.
        """
        self._reporter.add(units, units if size is None else size)
        self.publish(errors)

    def publish(self, errors: int = 0) -> None:
        """Publish the current state of the meter.

        Raises:
            LeaseLostError: another process has taken over the run.
        """
        meter = self._meter
        counts = {"done": meter.done, "total": meter.total, "errors": errors, "unit": self._unit}
        self._manifest.progress = counts
        if self._lease is not None:
            self._lease.publish_progress(**counts, rate=meter.units_per_second)
