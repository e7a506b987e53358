"""Running a job from the command line: SIGTERM, dry runs, results on stdout, exit code."""

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

from stratoscope.errors import EXIT_DONE, InputError, RunError
from stratoscope.execution import root_cause
from stratoscope.phases import announcing, phase
from stratoscope.pipelines.runtime.command import run_command
from stratoscope.pipelines.runtime.config import JobConfig
from stratoscope.pipelines.runtime.job import CHECKING, Job
from stratoscope.pipelines.runtime.job_maker import JobMaker
from stratoscope.pipelines.runtime.run_lookup import refuse_unreadable
from stratoscope.pipelines.runtime.surroundings import check_place, check_surroundings
from stratoscope.pipelines.runtime.terminal import own_terminal, stdout_console
from stratoscope.process import output_may_close, say

Config = TypeVar("Config", bound=JobConfig)
logger = logging.getLogger("stratoscope")


@contextmanager
def stopped_by_sigterm(job: Job[Config]) -> Iterator[None]:
    """Stop a job on SIGTERM while the block runs: gracefully, or at once after `stop_grace_s` seconds."""

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise RunError(
            f"stopped {job.stop_grace_s:.0f} s after SIGTERM; the same run_id resumes it from the last complete shard"
        )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        job.context.stopping.set()
        signal.setitimer(signal.ITIMER_REAL, job.stop_grace_s)

    previous = signal.signal(signal.SIGTERM, stop), signal.signal(signal.SIGALRM, give_up)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, previous[0])
        signal.signal(signal.SIGALRM, previous[1])


def run_from_command_line(job_class: JobMaker[Config], arguments: Sequence[str] | None = None) -> int:
    """Run a job with command-line arguments and return its exit code.

    The last line on stdout is `run: <path>`; refusals and failures are one line on stderr.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    config_class: type[Config] = job_class.config_class  # type: ignore[assignment]
    return run_command(job_class.name, config_class, arguments, partial(run_configured, job_class))


def run_configured(job_class: JobMaker[Config], config: Config) -> int:
    """Run a configured job in this process, print what it found, and return its exit code.

    Raises:
        InputError: the input was refused.
        RunError: the run failed.
    """
    with own_terminal() as terminal, announcing(job_class.name, say) as announcer:
        job = job_class(config, terminal)
        try:
            if config.dry_run:
                return _dry_run(job)
            with stopped_by_sigterm(job):
                job.perform()
        except (InputError, RunError):
            raise
        except Exception as error:
            logger.debug("traceback", exc_info=error)
            raise RunError(f"failed: {root_cause(error)}{_log_place(job)}") from error
        finally:
            announcer.redirect(say)
    with output_may_close(job_class.name):
        with refuse_unreadable(job.context.run), phase("showing the results", quick=True):
            job.show(job.context.run, stdout_console())
        print(f"run: {job.context.url}")
    return job.context.manifest.exit_code or EXIT_DONE


def _dry_run(job: Job[Config]) -> int:
    with job.quiet_libraries(), phase(CHECKING, quick=True):
        check_place(job.config.output, job.context.folder)
        check_surroundings(job.config, job.context.folder)
        job.prepare()
        plan = job.plan()
    with output_may_close(job.name):
        for label, text in plan:
            print(f"{label}: {text}")
    return EXIT_DONE


def _log_place(job: Job[Config]) -> str:
    path: Path | None = job.context.storage.local_path("log.txt")
    return f"; the log is {path}" if path and path.exists() else ""
