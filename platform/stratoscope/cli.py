"""The command `stratoscope JOB [options]`."""

import importlib.metadata
import pkgutil
import sys
from collections.abc import Callable, Sequence

from stratoscope.errors import EXIT_DONE, EXIT_REFUSED, InputError, nearest, print_error
from stratoscope.pipelines.jobs import JOBS, plugin_jobs
from stratoscope.process import end_process, output_may_close

VIEWS = {
    "report": ("print the results of a run and the path of its page", "report:show_report"),
    "compare": ("print what differs between two runs of a job", "compare:show_comparison"),
    "history": ("print key figures over nights, or query all runs in SQL", "history:show_history"),
    "runs": ("list runs, with the progress of those in work", "runs:show_runs"),
}
"""Commands that show runs: their summaries, and their functions in `stratoscope.pipelines.commands`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names and return its exit code.

    Args:
        arguments: the command line; None takes that of this process, and ends the process with the exit code.
    """
    if arguments is None:
        end_process(main(sys.argv[1:]))
    name, *options = arguments or ["--help"]
    code = EXIT_DONE
    try:
        with output_may_close(name):
            code = _run(name, options)
    except InputError as error:
        print_error(name if name in VIEWS else "stratoscope", str(error))
        code = EXIT_REFUSED
    return code


def _run(name: str, options: Sequence[str]) -> int:
    if name in ("-h", "--help"):
        print(_usage())
    elif name == "--version":
        print(f"stratoscope {importlib.metadata.version('stratoscope')}")
    elif name in VIEWS:
        show: Callable[[Sequence[str]], None] = pkgutil.resolve_name(f"stratoscope.pipelines.commands.{VIEWS[name][1]}")
        show(options)
    else:
        return _run_job(name, options)
    return EXIT_DONE


def _run_job(name: str, options: Sequence[str]) -> int:
    jobs = JOBS if name in JOBS else JOBS | plugin_jobs()
    if name not in jobs:
        commands = [*jobs, *VIEWS]
        hint = nearest(name, [*commands, "--help", "--version"]) or "."
        raise InputError(f"command {name!r} is unknown{hint} Known: {', '.join(commands)}")
    return jobs[name].run_command(options)


def _usage() -> str:
    summaries = {name: job.summary for name, job in (JOBS | plugin_jobs()).items()}
    summaries |= {name: summary for name, (summary, _) in VIEWS.items()}
    commands = "\n".join(f"  {name:14} {summary}" for name, summary in summaries.items())
    return (
        f"usage: stratoscope COMMAND [options]\n\n{commands}\n\n"
        "'stratoscope COMMAND --help' lists the options of a command; 'stratoscope --version' prints the version."
    )


if __name__ == "__main__":
    main()
