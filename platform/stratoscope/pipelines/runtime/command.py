"""A job as a command: reads the configuration, runs the job with it, and turns errors into exit codes.

This module does not import jobs, Ray or torch, so that wrong options and `--help` get an immediate response.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from stratoscope.errors import EXIT_FAILED, EXIT_REFUSED, InputError, RunError, print_error
from stratoscope.execution.address import check_address, is_local
from stratoscope.phases import announcing, phase
from stratoscope.pipelines.runtime.command_line import parse_command_line
from stratoscope.pipelines.runtime.config import JobConfig
from stratoscope.process import say

Config = TypeVar("Config", bound=JobConfig)
logger = logging.getLogger("stratoscope")


def run_command(name: str, config_class: type[Config], arguments: Sequence[str], run: Callable[[Config], int]) -> int:
    """Run a job with command-line arguments and return its exit code.

    The phases of the job are printed to stdout. Apart from progress, stderr gets only one line on a refusal or failure.

    Args:
        name: name of the job.
        config_class: class of its configuration.
        arguments: the command line without the program's name.
        run: runs the job with a configuration and returns the exit code.
    """
    try:
        with announcing(name, say):
            with phase("reading the configuration", quick=True):
                config = parse_command_line(config_class, name, arguments)
            if not is_local() and not _is_finished(name, config):
                check_address()
            return run(config)
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
        from stratoscope.execution import root_cause

        logger.debug("traceback", exc_info=error)
        print_error(name, f"failed: {root_cause(error)}")
        return EXIT_FAILED


def _is_finished(name: str, config: JobConfig) -> bool:
    """Return whether the run that a configuration names is finished, so that it needs no Ray."""
    from stratoscope.results import RunFolder

    manifest = RunFolder(config.output, name, config.run_id).read_manifest() if config.run_id else None
    return manifest is not None and manifest.status == "done"
