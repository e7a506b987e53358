"""The command `stratoscope JOB [options]`."""

import sys
from collections.abc import Callable, Sequence

from stratoscope.errors import InputError, nearest
from stratoscope.pipelines.config import print_error
from stratoscope.pipelines.job import EXIT_DONE, EXIT_REFUSED


def _score(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.job import run_from_command_line
    from stratoscope.pipelines.score import ScoreJob

    return run_from_command_line(ScoreJob, arguments)


def _search(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.job import run_from_command_line
    from stratoscope.pipelines.targets import Search

    return run_from_command_line(Search(), arguments)


def _hallucination(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.hallucination import HallucinationJob
    from stratoscope.pipelines.job import run_from_command_line

    return run_from_command_line(HallucinationJob, arguments)


def _mitigation(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.job import run_from_command_line
    from stratoscope.pipelines.mitigation import MitigationJob

    return run_from_command_line(MitigationJob, arguments)


def _faithfulness(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.faithfulness import FaithfulnessJob
    from stratoscope.pipelines.job import run_from_command_line

    return run_from_command_line(FaithfulnessJob, arguments)


def _runs(arguments: Sequence[str]) -> int:
    from stratoscope.pipelines.runs import show_runs

    try:
        show_runs(arguments)
    except InputError as error:
        print_error("runs", str(error))
        return EXIT_REFUSED
    return EXIT_DONE


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "score": (_score, "rank the layers of a language model by the statistics of their activations"),
    "search": (_search, "find layers that a language model can do without, and export what is left"),
    "hallucination": (_hallucination, "find layers whose activations differ between wrong and right answers"),
    "mitigation": (_mitigation, "mend a model in its hallucinating layers, or heal it after layers were dropped"),
    "faithfulness": (_faithfulness, "see whether forecasts survive another seed and perturbed inputs"),
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
