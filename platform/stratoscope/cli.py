"""The command `stratoscope JOB [options]`."""

import sys
from collections.abc import Callable, Sequence

from stratoscope.errors import InputError, nearest
from stratoscope.pipelines.runtime.config import print_error
from stratoscope.pipelines.runtime.job import EXIT_DONE, EXIT_REFUSED


def _score(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.runtime.job import run_from_command_line
    from stratoscope.pipelines.score import ScoreJob

    return run_from_command_line(ScoreJob, arguments)


def _search(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.runtime.job import run_from_command_line
    from stratoscope.pipelines.search.targets import Search

    return run_from_command_line(Search(), arguments)


def _hallucination(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.hallucination import HallucinationJob
    from stratoscope.pipelines.runtime.job import run_from_command_line

    return run_from_command_line(HallucinationJob, arguments)


def _mitigation(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.mitigation import MitigationJob
    from stratoscope.pipelines.runtime.job import run_from_command_line

    return run_from_command_line(MitigationJob, arguments)


def _faithfulness(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.faithfulness import FaithfulnessJob
    from stratoscope.pipelines.runtime.job import run_from_command_line

    return run_from_command_line(FaithfulnessJob, arguments)


def _audit(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.audit import AuditJob
    from stratoscope.pipelines.runtime.job import run_from_command_line

    return run_from_command_line(AuditJob, arguments)


def _shown(name: str, show: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Run a command that prints something, and return its exit code."""
    try:
        show(arguments)
    except InputError as error:
        print_error(name, str(error))
        return EXIT_REFUSED
    return EXIT_DONE


def _report(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.commands.report import show_report

    return _shown("report", show_report, arguments)


def _compare(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.commands.compare import show_comparison

    return _shown("compare", show_comparison, arguments)


def _history(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.commands.history import show_history

    return _shown("history", show_history, arguments)


def _runs(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.commands.runs import show_runs

    return _shown("runs", show_runs, arguments)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "score": (_score, "rank the layers of a language model by the statistics of their activations"),
    "search": (_search, "find layers that a language model can do without, and export what is left"),
    "hallucination": (_hallucination, "find layers whose activations differ between wrong and right answers"),
    "mitigation": (_mitigation, "mend a model in its hallucinating layers, or heal it after layers were dropped"),
    "faithfulness": (_faithfulness, "see whether forecasts survive another seed and perturbed inputs"),
    "audit": (_audit, "all of these over many models, compared with the nights before"),
    "report": (_report, "show what a run found, and where its page is"),
    "compare": (_compare, "show what differs between two runs of a job"),
    "history": (_history, "show key figures over nights, or ask all runs in SQL"),
    "runs": (_runs, "list runs, with the progress of those that somebody works on"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in ("-h", "--help"):
        print("usage: stratoscope COMMAND [options]\n")
        for name, (_, meaning) in COMMANDS.items():
            print(f"  {name:14} {meaning}")
        print("\n'stratoscope COMMAND --help' lists the options of a command.")
        return EXIT_DONE
    if given[0] not in COMMANDS:
        known = ", ".join(COMMANDS)
        print_error(
            "stratoscope", f"command {given[0]!r} is unknown{nearest(given[0], COMMANDS) or '.'} Known: {known}"
        )
        return EXIT_REFUSED
    run, _ = COMMANDS[given[0]]
    return run(given[1:])


if __name__ == "__main__":
    sys.exit(main())
