"""The context of a run: what its steps share, whichever job they belong to."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from stratoscope.errors import RunError
from stratoscope.execution import Meter, Reporter, progress
from stratoscope.pipelines.runtime.terminal import Terminal
from stratoscope.results import Lease, Manifest, Page, Run, RunFolder, Storage, render
from stratoscope.results.run import REPORT


class RunContext:
    """The folder, manifest, terminal, lease, stop signal and stage timer of one run.

    A job owns it and hands it to whatever carries out a part of the run.

    Args:
        folder: the run's folder.
        manifest: the run's manifest, which steps add to.
        terminal: where progress is shown.
        stopping: an event that SIGTERM sets. Work in progress then ends, and nothing else is started.
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
        """The run as readers see it."""
        return Run(self.storage, self.manifest)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the run into the manifest.

        Raises:
            RunError: the run is to stop.
        """
        if self.stopping.is_set():
            raise RunError(
                f"stopped by SIGTERM before the stage {name}; repeat the command with the same run_id to resume"
            )
        start = time.perf_counter()
        try:
            yield
        finally:
            timings = self.manifest.timings
            timings[name] = round(timings.get(name, 0.0) + time.perf_counter() - start, 3)

    @contextmanager
    def progress(
        self, title: str, total: int, done: int, unit: str, size: str | None = None
    ) -> Iterator["RunProgress"]:
        """Show progress, and publish it with the lease, while the block runs.

        Args:
            title: label of the progress bar.
            total: number of units of work.
            done: number of units that an earlier start has finished.
            unit: name of a unit, in the plural.
            size: name of what the size of a unit is measured in, in the plural; None where units have no size.
        """
        meter = Meter(total, done, unit, size or unit)
        with progress(meter, title, self.console) as reporter:
            yield RunProgress(meter, reporter, self.lease)

    def write_report(self, page: Page) -> None:
        """Write the run's report page."""
        self.storage.write(REPORT, render(page))


class RunProgress:
    """Progress of a stage, shown on the console and published with the lease.

    Args:
        meter: counts finished units.
        reporter: shows the meter.
        lease: publishes it to `stratoscope runs`; None outside a run.
    """

    def __init__(self, meter: Meter, reporter: Reporter, lease: Lease | None) -> None:
        self._meter, self._reporter, self._lease = meter, reporter, lease

    @property
    def done(self) -> int:
        """Number of finished units, those of earlier starts included."""
        return self._meter.done

    def add(self, units: int = 1, size: float | None = None, *, errors: int = 0) -> None:
        """Count finished units.

        Args:
            units: number of units.
            size: their total size; None where a unit is its own size.
            errors: number of all errors so far.

        Raises:
            LeaseLostError: another process has taken over the run.
        """
        self._reporter.add(units, units if size is None else size)
        if self._lease is not None:
            meter = self._meter
            self._lease.tell(done=meter.done, total=meter.total, errors=errors, rate=meter.units_per_second)
