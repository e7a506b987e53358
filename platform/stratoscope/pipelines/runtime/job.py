"""The life of a run, the same for every job: configuration, folder, resume, manifest, log, exit code."""

import logging
import signal
import sys
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import ClassVar, Generic, Protocol, TypeVar

from rich.console import Console

from stratoscope.errors import EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, InputError, RunError, print_error
from stratoscope.execution import root_cause
from stratoscope.pipelines.runtime.config import JobConfig, load_config, result_settings
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.runtime.run_lookup import EqualRunFound, equal_run, identity
from stratoscope.pipelines.runtime.terminal import Terminal, own_terminal, stdout_console
from stratoscope.results import Lease, Manifest, Run, RunFolder, check_free, new_run_id

STOP_GRACE_S = 100.0
"""After SIGTERM, for what is in work to end; a spot node is taken away two minutes after its notice."""

Config = TypeVar("Config", bound=JobConfig)
logger = logging.getLogger("stratoscope")


class Job(ABC, Generic[Config]):
    """One run of a job. A job says what to check, how to plan, and what to do; the rest is here.

    Args:
        config: the job's configuration.
        terminal: where progress is shown; None is the process's own stderr.
        stopping: the event that SIGTERM sets; None makes one. A job inside another shares the other's.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[JobConfig]]
    stop_grace_s: ClassVar[float] = STOP_GRACE_S

    def __init__(
        self, config: Config, terminal: Terminal | None = None, stopping: threading.Event | None = None
    ) -> None:
        self.config = config
        self.exit_code = EXIT_DONE
        """The exit code of a run that is carried out to its end."""
        self.previous_start: Manifest | None = None
        """The manifest that an earlier start of this run left behind."""
        folder = RunFolder(config.output, self.name, config.run_id or new_run_id())
        manifest = Manifest(
            job=self.name, run_id=folder.run_id, config=config.model_dump(mode="json"), seed=config.seed
        )
        self.context = RunContext(folder, manifest, terminal or Terminal(Console(stderr=True)), stopping)

    @abstractmethod
    def prepare(self) -> None:
        """Check the input and lay out the work, before any model is loaded.

        Raises:
            InputError: something has to be mended by the user.
        """

    @abstractmethod
    def plan(self) -> Sequence[tuple[str, str]]:
        """Return what the run would do and take, as pairs of name and text; `prepare` has been called."""

    @abstractmethod
    def execute(self) -> None:
        """Do the work; `prepare` has been called."""

    @staticmethod
    @abstractmethod
    def show(run: Run, console: Console) -> None:
        """Print the main findings of a finished run, which an older version may have written."""

    def already_done(self) -> bool:
        """Tell whether this very run is finished.

        Raises:
            InputError: a run of this id has other settings.
        """
        folder = self.context.folder
        previous = folder.read_manifest()
        if previous is None:
            return False
        here = result_settings(self.config)
        there = result_settings(_read_config(self.config_class, previous))
        if here != there:
            changed = ", ".join(f"{n} {there.get(n)} -> {here[n]}" for n in here if here[n] != there.get(n))
            raise InputError(
                f"run_id {folder.run_id!r} exists in {folder.url} with other settings ({changed}); "
                "choose another run_id or repeat the settings"
            )
        self.previous_start = previous
        self.context.manifest.started = previous.started
        if previous.status == "done":
            self.context.manifest = previous
            return True
        return False

    def register(self, *, resumed: bool = True) -> None:
        """Record the identity of the run in its manifest, before anything is computed.

        The fingerprints have to stand in the manifest already.

        Args:
            resumed: whether results of an earlier start are kept.

        Raises:
            InputError: the results that are kept were computed with another model or other data.
            EqualRunFound: `reuse` is set, and a finished run has the same identity.
        """
        if resumed:
            self._check_fingerprints()
        manifest, previous = self.context.manifest, self.previous_start
        manifest.identity = identity(self.name, result_settings(self.config), manifest.fingerprints)
        # An earlier start that came no further than this point has computed nothing.
        if self.config.reuse and (previous is None or previous.identity is None):
            equal = equal_run(self.config.output, self.name, manifest.identity)
            if equal is not None:
                raise EqualRunFound(equal)
        self.context.folder.write_manifest(manifest)

    def _check_fingerprints(self) -> None:
        before = self.previous_start.fingerprints if self.previous_start else {}
        here = self.context.manifest.fingerprints
        changed = [name for name in here if name in before and before[name] != here[name]]
        if changed:
            folder = self.context.folder
            raise InputError(
                f"run_id {folder.run_id!r} was started with other {' and '.join(changed)} in {folder.url}: what the "
                "settings name has changed since then; choose another run_id"
            )

    def perform(self) -> None:
        """Run from start to end; the manifest says how it ended.

        Raises:
            InputError: the input was refused.
        """
        if self.already_done():
            return
        context = self.context
        check_free(context.storage)
        with quiet_libraries():
            with context.stage("prepare"):
                self.prepare()
            with Lease(context.storage) as context.lease:
                # Another process may have started or finished the run since.
                if self.already_done():
                    return
                if self.previous_start is None:
                    context.folder.write_manifest(context.manifest)
                try:
                    with self._log_file():
                        self._execute()
                except EqualRunFound as found:
                    context.lease.remove_folder()
                    context.folder = RunFolder(self.config.output, self.name, found.manifest.run_id)
                    context.manifest = found.manifest

    def _execute(self) -> None:
        try:
            self.execute()
        except EqualRunFound:
            raise
        except InputError as error:
            # A refused attempt to resume leaves the manifest of the run that it would have resumed.
            if self.previous_start is None:
                self._finish(EXIT_REFUSED, error)
            raise
        except BaseException as error:
            self._finish(EXIT_FAILED, error)
            raise
        self._finish(self.exit_code)

    def _finish(self, code: int, error: BaseException | None = None) -> None:
        manifest = self.context.manifest
        manifest.status = "failed" if code in (EXIT_FAILED, EXIT_REFUSED) else "done"
        manifest.exit_code = code
        manifest.error = root_cause(error) if error else None
        manifest.finished = datetime.now(UTC).isoformat(timespec="seconds")
        if error is None:
            self.context.folder.write_manifest(manifest)
            return
        logger.error("the run failed", exc_info=error)
        # Where the disk is full or the store is unreachable, the first error is the one to report.
        with suppress(OSError):
            self.context.folder.write_manifest(manifest)

    @contextmanager
    def _log_file(self) -> Iterator[None]:
        """Send all logging to log.txt in the run folder while the block runs; an object store gets it at the end."""
        storage = self.context.storage
        path = storage.local_path("log.txt")
        if path is not None:
            with self._logging_to(path):
                yield
            return
        with tempfile.TemporaryDirectory(prefix="stratoscope-") as folder:
            path = Path(folder) / "log.txt"
            try:
                with self._logging_to(path):
                    yield
            finally:
                with suppress(OSError):
                    storage.write("log.txt", path.read_bytes())

    @contextmanager
    def _logging_to(self, path: Path) -> Iterator[None]:
        self.context.terminal.redirect_stderr(path)
        root = logging.getLogger()
        handler = logging.FileHandler(path)
        handler.setLevel(logging.INFO)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
            with suppress(OSError):
                handler.close()


@contextmanager
def stopped_by_sigterm(job: "Job[Config]") -> Iterator[None]:
    """Let SIGTERM stop a job while the block runs: in good order, or after `stop_grace_s` at once."""

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise RunError(
            f"stopped {job.stop_grace_s:.0f} s after SIGTERM; the same run_id goes on from the last whole shard"
        )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        job.context.stopping.set()
        signal.setitimer(signal.ITIMER_REAL, job.stop_grace_s)

    earlier = signal.signal(signal.SIGTERM, stop), signal.signal(signal.SIGALRM, give_up)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, earlier[0])
        signal.signal(signal.SIGALRM, earlier[1])


def _read_config(config_class: type[JobConfig], manifest: Manifest) -> JobConfig:
    """Return a run's configuration; fields it was not told of, having been made before them, take their defaults."""
    return config_class.model_validate(manifest.config)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the bars and notes of libraries out of the terminal; their logging reaches the root logger."""
    import datasets
    import transformers.utils.logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    root = logging.getLogger()
    silence = logging.NullHandler()
    root.addHandler(silence)
    try:
        yield
    finally:
        root.removeHandler(silence)


class JobMaker(Protocol[Config]):
    """A class of jobs, or what chooses among several that share a configuration."""

    @property
    def name(self) -> str:
        """Name of the job."""

    @property
    def config_class(self) -> type[JobConfig]:
        """Its fields."""

    def __call__(
        self, config: Config, terminal: Terminal | None = None, stopping: threading.Event | None = None, /
    ) -> Job[Config]:
        """Make the job."""

    def show(self, run: Run, console: Console, /) -> None:
        """Print the main findings of a finished run."""


def run_from_command_line(job_class: JobMaker[Config], arguments: Sequence[str] | None = None) -> int:
    """Run a job with command-line arguments and return its exit code.

    The last line on stdout is `run: <path>`; refusals and failures are one line on stderr.
    """
    name = job_class.name
    job = None
    try:
        config = load_config(job_class.config_class, name, sys.argv[1:] if arguments is None else arguments)
        with own_terminal() as terminal:
            job = job_class(config, terminal)  # type: ignore[arg-type]
            if config.dry_run:
                return _dry_run(job)
            with stopped_by_sigterm(job):
                job.perform()
        job.show(job.context.run, stdout_console())
    except InputError as error:
        print_error(name, str(error))
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print_error(name, "interrupted; the same run_id resumes it")
        return EXIT_FAILED
    except RunError as error:
        print_error(name, str(error))
        return EXIT_FAILED
    except Exception as error:
        logger.debug("traceback", exc_info=error)
        print_error(name, f"failed: {root_cause(error)}{_log_place(job)}")
        return EXIT_FAILED
    print(f"run: {job.context.url}")
    return job.context.manifest.exit_code or EXIT_DONE


def _dry_run(job: Job[Config]) -> int:
    with quiet_libraries():
        job.prepare()
        for label, text in job.plan():
            print(f"{label}: {text}")
    return EXIT_DONE


def _log_place(job: "Job[Config] | None") -> str:
    path: Path | None = job.context.storage.local_path("log.txt") if job else None
    return f"; the log is {path}" if path and path.exists() else ""
