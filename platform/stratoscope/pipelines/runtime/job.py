"""The life cycle of a run, the same for every job: configuration, folder, resuming, manifest, log."""

import logging
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from rich.console import Console

from stratoscope.errors import EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, InputError
from stratoscope.execution import root_cause
from stratoscope.phases import announcing, tell
from stratoscope.pipelines.runtime.config import JobConfig, result_settings
from stratoscope.pipelines.runtime.context import TUNE, RunContext
from stratoscope.pipelines.runtime.request import request_digest
from stratoscope.pipelines.runtime.run_lookup import (
    EqualRunFound,
    equal_run,
    identity,
    recorded_settings,
    run_of_equal_request,
    unknown_fields,
    version_of,
)
from stratoscope.pipelines.runtime.surroundings import check_place, check_surroundings
from stratoscope.pipelines.runtime.terminal import Terminal
from stratoscope.results import (
    Lease,
    LeaseLostError,
    Manifest,
    Run,
    RunFolder,
    check_not_held,
    damaged_table,
    new_run_id,
)

CHECKING = "checking the input"
STOP_GRACE_S = 100.0
"""Seconds that work in progress gets after SIGTERM. A spot node is reclaimed two minutes after its notice."""

Config = TypeVar("Config", bound=JobConfig)
logger = logging.getLogger("stratoscope")


class Job(ABC, Generic[Config]):
    """One run of a job. A subclass checks the input, plans and executes; this class does the rest.

    Args:
        config: the job's configuration.
        terminal: shows progress; None uses the process's own stderr.
        stopping: the event that SIGTERM sets; None creates one. A job inside another shares the outer job's event.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[JobConfig]]
    stop_grace_s: ClassVar[float] = STOP_GRACE_S
    reads_models: ClassVar[bool] = True
    """Whether this process itself uses transformers or datasets, whose messages are kept out of the terminal."""

    def __init__(
        self, config: Config, terminal: Terminal | None = None, stopping: threading.Event | None = None
    ) -> None:
        self.config = config
        self.exit_code = EXIT_DONE
        """Exit code of a run that ends without an error."""
        self.previous_start: Manifest | None = None
        """Manifest of an earlier start of this run, or None."""
        folder = RunFolder(config.output, self.name, config.run_id or new_run_id())
        manifest = Manifest(
            job=self.name, run_id=folder.run_id, config=config.model_dump(mode="json"), seed=config.seed
        )
        self.context = RunContext(folder, manifest, terminal or Terminal(Console(stderr=True)), stopping)

    @abstractmethod
    def prepare(self) -> None:
        """Check the input and lay out the work, before any model is loaded.

        Raises:
            InputError: the user has to correct the input or the configuration.
        """

    @abstractmethod
    def plan(self) -> Sequence[tuple[str, str]]:
        """Return pairs of a name and a text on the run's work and resources. `prepare` has been called."""

    @abstractmethod
    def execute(self) -> None:
        """Do the work. `prepare` has been called."""

    def clear_intermediates(self) -> None:
        """Remove the files that serve only to resume the run. Its manifest says that it is done."""

    @staticmethod
    @abstractmethod
    def show(run: Run, console: Console) -> None:
        """Print the main findings of a finished run. An older version may have written the run."""

    def already_done(self) -> bool:
        """Return whether this run is finished already.

        Raises:
            InputError: the run_id belongs to a run with other settings.
        """
        previous = self.context.folder.read_manifest()
        if previous is None:
            return False
        self._check_settings(previous)
        self.previous_start = previous
        self._describe_results_of(previous)
        if previous.status == "done" and not self._is_damaged():
            self.context.manifest = previous
            return True
        return False

    def _describe_results_of(self, previous: Manifest) -> None:
        """Keep in the manifest what it says about the results of an earlier start, in case this one computes none."""
        manifest = self.context.manifest
        manifest.started, manifest.identity = previous.started, previous.identity
        manifest.fingerprints, manifest.facts = dict(previous.fingerprints), dict(previous.facts)
        manifest.earlier_code = list(previous.earlier_code)

    def _is_damaged(self) -> bool:
        """Return whether a table of the finished run cannot be read, so that the run is computed again."""
        damaged = damaged_table(self.context.storage)
        if damaged is not None:
            tell(f"{damaged} cannot be read; the run is computed again")
        return damaged is not None

    def _check_settings(self, previous: Manifest) -> None:
        """Check that an earlier start of this run, maybe by another version, has the same settings.

        Raises:
            InputError: a setting differs, or this version does not know it.
        """
        folder = self.context.folder
        made_by = f"{folder.url}, made by {version_of(previous)},"
        unknown = sorted(unknown_fields(self.config_class, previous.config))
        if unknown:
            raise InputError(
                f"run_id {folder.run_id!r} cannot be resumed: {made_by} has the field {', '.join(unknown)}, which this "
                "version does not know; choose another run_id, or resume with that version"
            )
        new, old = (recorded_settings(self.config_class, m.config) for m in (self.context.manifest, previous))
        changed = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in new if new[name] != old[name])
        if changed:
            raise InputError(
                f"run_id {folder.run_id!r} exists in {made_by} with other settings ({changed}); "
                "choose another run_id or repeat the settings"
            )

    def register(self, *, resumed: bool = True) -> None:
        """Record the identity of the run in its manifest, before anything is computed.

        The manifest must hold the fingerprints already. A run that uses results of other code, versions or extensions
        has neither identity nor request, so that it is not reused.

        Args:
            resumed: whether the run uses results of an earlier start.

        Raises:
            InputError: the results of the earlier start were computed with another model or other data.
            EqualRunFound: `reuse` is set, and a finished run has the same identity.
        """
        if resumed:
            self._check_fingerprints()
        manifest, previous = self.context.manifest, self.previous_start
        manifest.identity = identity(self.name, result_settings(self.config), manifest.fingerprints)
        manifest.earlier_code = _earlier_code(previous, manifest.identity) if resumed else []
        # An earlier start without an identity stopped before this point and computed nothing.
        if self.config.reuse and (previous is None or previous.identity is None) and not manifest.earlier_code:
            equal = equal_run(self.config.output, self.name, manifest.identity)
            if equal is not None:
                raise EqualRunFound(equal)
        if manifest.earlier_code:
            manifest.identity = manifest.request = None
            tell("results of an earlier start by other code or packages are kept; no later run uses this run's results")
        self._write_manifest()

    def _write_manifest(self) -> None:
        """Write the manifest, unless another process has taken over the run.

        Raises:
            LeaseLostError: another process has taken over the run.
        """
        if self.context.lease is not None:
            self.context.lease.check_held()
        self.context.folder.write_manifest(self.context.manifest)

    def _check_fingerprints(self) -> None:
        old = self.previous_start.fingerprints if self.previous_start else {}
        new = self.context.manifest.fingerprints
        changed = [name for name in new if name in old and old[name] != new[name]]
        if changed:
            folder = self.context.folder
            raise InputError(
                f"run_id {folder.run_id!r} was started with other {' and '.join(changed)} in {folder.url}: the model "
                "or the data of the run has changed since then; choose another run_id"
            )

    def perform(self) -> None:
        """Run the job from start to end, and record the outcome in the manifest.

        Raises:
            InputError: the input was refused.
        """
        context = self.context
        check_place(self.config.output, context.folder)
        if self.already_done():
            # A kill may have come before the end of the start that finished the run.
            self._clear()
            return
        check_surroundings(self.config, context.folder)
        check_not_held(context.storage)
        # The digest precedes reading the input, so that a later change of the input makes it a different request.
        context.manifest.request = request_digest(self.name, self.config) if self.has_request() else None
        if self.config.reuse and self.previous_start is None:
            equal = run_of_equal_request(self.config.output, self.name, context.manifest.request)
            if equal is not None:
                self._use(equal)
                return
        with announcing(self.name, context.terminal.say) as announcer, self.quiet_libraries():
            # If the input is refused within a second, the refusal is the only line.
            with context.stage("prepare", CHECKING, quick=True):
                self.prepare()
            if context.console.is_terminal:
                announcer.redirect(context.terminal.say)  # above the progress bar
            with Lease(context.storage) as context.lease:
                # Another process may have started or finished the run in the meantime.
                if self.already_done():
                    return
                if self.previous_start is None:
                    self._write_manifest()
                elif self.previous_start.status == "done":
                    self._forget_trials()
                try:
                    with self._log_file():
                        self._execute()
                except EqualRunFound as equal:
                    context.lease.remove_folder()
                    self._use(equal.manifest)

    @classmethod
    def has_request(cls) -> bool:
        """Return whether equal requests imply equal runs. Jobs of other packages may read untracked files."""
        return cls.__module__.startswith(f"{__package__.partition('.')[0]}.")

    def quiet_libraries(self) -> AbstractContextManager[None]:
        """Keep messages of the libraries that this process uses out of the terminal, while the block runs."""
        return quiet_libraries() if self.reads_models else nullcontext()

    def _forget_trials(self) -> None:
        """Remove Ray Tune's state before a finished search is repeated. Otherwise, it would restore the trials."""
        for name in self.context.storage.names():
            if name.startswith(TUNE):
                self.context.storage.remove(name)

    def _use(self, equal: Manifest) -> None:
        """Use an equal run instead of this one."""
        self.context.folder = RunFolder(self.config.output, self.name, equal.run_id)
        self.context.manifest = equal

    def _execute(self) -> None:
        try:
            self.execute()
        except EqualRunFound:
            raise
        except InputError as error:
            # A refused attempt to resume must not overwrite the manifest of the earlier start.
            if self.previous_start is None:
                self._finish(EXIT_REFUSED, error)
            raise
        except BaseException as error:
            self._finish(EXIT_FAILED, error)
            raise
        self._finish(self.exit_code)
        self._clear()

    def _clear(self) -> None:
        try:
            self.clear_intermediates()
        except OSError as error:  # the run is done; its next start removes them
            logger.warning("intermediate files could not be removed: %s", error)

    def _finish(self, code: int, error: BaseException | None = None) -> None:
        manifest = self.context.manifest
        manifest.status = "failed" if code in (EXIT_FAILED, EXIT_REFUSED) else "done"
        manifest.exit_code = code
        manifest.error = root_cause(error) if error else None
        manifest.finished = datetime.now(UTC).isoformat(timespec="seconds")
        if error is None:
            self._write_manifest()
            return
        logger.error("the run failed", exc_info=error)
        # If the disk is full, the store is unreachable or the lease is lost, the first error is reported, not this one.
        with suppress(OSError, LeaseLostError):
            self._write_manifest()

    @contextmanager
    def _log_file(self) -> Iterator[None]:
        """Write all logging to log.txt in the run folder while the block runs. Object stores get it at the end."""
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


def _earlier_code(previous: Manifest | None, run_identity: str) -> list[str]:
    """Return the digests of the code of earlier starts whose results a run uses, if they are not results of this code.

    Args:
        previous: manifest of the last start.
        run_identity: identity of the run by this code. Settings and fingerprints are those of the last start, so that
            another identity means other code, versions or extensions.
    """
    if previous is None or (not previous.earlier_code and previous.identity in (None, run_identity)):
        return []
    return list(dict.fromkeys([*previous.earlier_code, previous.code or "unknown"]))


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep progress bars and messages of libraries out of the terminal. The root logger gets their log messages."""
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
